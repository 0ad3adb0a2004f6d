"""The roles' policies, evaluated: what their code calls is allowed, and what a foreign one would call is not.

The evaluator is ours (policy_evaluator.py), and the condition keys of a request are AWS's documentation; that AWS
decides alike is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from checks.assemblies import ACCOUNT, REGION
from node_agent.contract.launch_breaker import GAVE_UP_EVENT
from node_agent.contract.names import CACHES_PREFIX, NODE_EVENT_SOURCE
from node_agent.contract.ownership import STATUS_INDEX
from node_agent.contract.tags import CLUSTER_KEYS_TAG, CLUSTER_TAG, KEY_TAG, SHUT_OUT_TAG
from node_agent.contract.wheelhouse import PREFIX as WHEELS_PREFIX
from tests.aws_calls.agent_calls import CHECKPOINTS, CLUSTER, GROUP, MODELS, NODE, TABLE
from tests.aws_calls.authorization import actions_of, group_arn, requests_of
from tests.aws_calls.conftest import ROLE_OF_HANDLER, RecordedCalls
from tests.aws_calls.policy_evaluator import Request, evaluate
from tests.aws_calls.recording import ROOT, Call
from tests.aws_calls.roles import Roles
from tests.aws_calls.shell_calls import AGENT_URL, shell_calls

OTHER_NODE, STRANGER = "i-0fedcba9876543210", "i-0aaaaaaaaaaaaaaaa"
TAGS = {NODE: {CLUSTER_TAG: CLUSTER}, OTHER_NODE: {CLUSTER_TAG: CLUSTER}, STRANGER: {"Name": "a database"}}
USER_ID = f"AROAEXAMPLE:{NODE}"
"""EC2 names the role's session after the instance."""

LAMBDAS = tuple(ROLE_OF_HANDLER.values())
CUSTOM_RESOURCES = ("RequestStarterRole", "SizeSetterRole")
ROLES = ("NodeRole", "JobRole", *LAMBDAS)
HERE = f"{REGION}:{ACCOUNT}"
ASSETS = AGENT_URL.removeprefix("s3://").partition("/")[0]

NOT_IN_THE_SOURCE: Mapping[str, Mapping[str, str]] = {
    "NodeRole": {
        **dict.fromkeys(
            ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"), "the CloudWatch agent"
        ),
        **dict.fromkeys(
            (
                "ssm:UpdateInstanceInformation",
                *(f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")),
            ),
            "the SSM agent",
        ),
    },
    "JobRole": dict.fromkeys(
        ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"), "CodeBuild writes the build's log"
    ),
    **{
        role: {
            **dict.fromkeys(("logs:CreateLogStream", "logs:PutLogEvents"), "Lambda writes the function's log"),
            **dict.fromkeys(("xray:PutTraceSegments", "xray:PutTelemetryRecords"), "Lambda's tracing"),
            **({} if role in CUSTOM_RESOURCES else {"sqs:SendMessage": "Lambda's dead-letter queue"}),
        }
        for role in LAMBDAS
    },
}
"""Granted actions that no source here calls, each with its caller."""


def test_each_handler_has_its_role_here() -> None:
    """A new handler needs its events in lambda_calls.py or custom_resource_calls.py, and its role in conftest.py."""
    handlers = {path.stem for path in (ROOT / "lambdas/handlers").glob("*.py")} - {"__init__"}
    assert handlers == set(ROLE_OF_HANDLER)


def requests(call: Call) -> tuple[Request, ...]:
    """Return a call's requests as the node NODE, or as a Lambda."""
    if call.service == "s3" and call.params.get("Bucket") == ASSETS:
        return ()  # the archive's hash is the template's: test_a_node_reads_the_agents_archive_and_no_other_asset
    return requests_of(call, USER_ID, lambda instance_id: TAGS[instance_id])


@pytest.mark.parametrize("role", ROLES)
def test_each_call_is_allowed(role: str, recorded: RecordedCalls, roles: Roles) -> None:
    """A call that is added to the source is recorded (test_calls.py), and refused here until a policy allows it."""
    refused = {
        (request.action, request.resource)
        for call in recorded.by_role[role]
        for request in requests(call)
        if not evaluate(roles.statements[role], request).is_allowed
    }
    assert refused == set()


@pytest.mark.parametrize("role", ROLES)
def test_no_action_is_granted_that_nothing_calls(role: str, recorded: RecordedCalls, roles: Roles) -> None:
    called = {
        action for call in recorded.by_role[role] for action in actions_of(call.service, call.operation, call.params)
    }
    granted = {action for statement in roles.statements[role] for action in _listed(statement["Action"])}
    assert granted - called == set(NOT_IN_THE_SOURCE[role])


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def tagging(instance_id: str, *keys: str, operation: str = "CreateTags") -> Call:
    tags = [{"Key": key, "Value": "x"} for key in keys]
    return Call("ec2", operation, "", {"Resources": [instance_id], **({"Tags": tags} if tags else {})})


def decided(roles: Roles, role: str, call: Call, **without_or_with: str | None) -> bool:
    """Evaluate a call. The keywords replace condition keys, by their part behind the colon; None removes one."""
    (request,) = requests(call)
    changes = {name.lower(): value for name, value in without_or_with.items()}
    context = {
        key: changed if (changed := changes.get(key.partition(":")[2].lower(), value)) is not None else None
        for key, value in request.context.items()
    }
    kept = {key: value for key, value in context.items() if value is not None}
    return evaluate(roles.statements[role], replace(request, context=kept)).is_allowed


@pytest.mark.parametrize("operation", ["CreateTags", "DeleteTags"])
def test_a_node_tags_itself_and_no_other_instance(operation: str, roles: Roles) -> None:
    def allowed(instance_id: str, *keys: str, **more: str | None) -> bool:
        return decided(roles, "NodeRole", tagging(instance_id, *keys, operation=operation), **more)

    assert allowed(NODE, "SynktiState", "SynktiRole", KEY_TAG)
    assert allowed(NODE, CLUSTER_KEYS_TAG)
    assert not allowed(OTHER_NODE, KEY_TAG), "by this tag EC2 vouches for that node"
    assert not allowed(NODE, SHUT_OUT_TAG), "a node that was shut out cannot let itself in"
    assert not allowed(OTHER_NODE, "SynktiState"), "of its cluster"
    assert not allowed(STRANGER, "SynktiState"), "of nobody's cluster"
    assert not allowed(NODE, "SynktiState", "Name"), "a tag of somebody else"
    assert not allowed(NODE, "SynktiVersion"), "the version is the template's"
    assert not allowed(NODE), "DeleteTags without keys would delete every tag"
    for missing in ("userid", "InstanceID", f"ResourceTag/{CLUSTER_TAG}"):
        assert not allowed(NODE, "SynktiState", **{missing: None}), missing
    assert not allowed(NODE, "SynktiState", **{f"ResourceTag/{CLUSTER_TAG}": "another"})
    assert not allowed(NODE, "SynktiState", userid="AROAEXAMPLE:botocore-session-1"), "the role, not on an instance"


@pytest.mark.parametrize("role", LAMBDAS[:3])
def test_lambdas_tag_nodes_of_their_cluster_and_no_other_instance(role: str, roles: Roles) -> None:
    assert decided(roles, role, tagging(OTHER_NODE, "SynktiState", "SynktiDeadline"))
    assert not decided(roles, role, tagging(STRANGER, "SynktiState"))
    assert not decided(roles, role, tagging(NODE, "Name"))
    for tag in (KEY_TAG, CLUSTER_KEYS_TAG, SHUT_OUT_TAG):
        assert not decided(roles, role, tagging(NODE, tag)), tag
    assert not decided(roles, role, tagging(NODE)), "without keys"
    assert not decided(roles, role, tagging(NODE, "SynktiState", operation="DeleteTags"))
    assert not decided(roles, role, tagging(NODE, "SynktiState"), **{f"ResourceTag/{CLUSTER_TAG}": None})


def update(**params: Any) -> Call:
    return Call("autoscaling", "UpdateAutoScalingGroup", "", {"AutoScalingGroupName": GROUP, **params})


@pytest.mark.parametrize("role", ["launchfinishedRole", "fleetcheckedRole"])
def test_lambdas_set_the_base_and_neither_size_nor_another_group(role: str, roles: Roles) -> None:
    assert decided(roles, role, update())
    assert not decided(roles, role, update(MinSize=0))
    assert not decided(roles, role, update(MaxSize=100))
    assert not decided(roles, role, update(AutoScalingGroupName="another-fleet"))


def test_a_deployment_sets_the_size_of_its_own_group_only(roles: Roles) -> None:
    assert decided(roles, "SizeSetterRole", update(MinSize=0, MaxSize=6, DesiredCapacity=3))
    assert not decided(roles, "SizeSetterRole", update(AutoScalingGroupName="another-fleet", DesiredCapacity=0))


def test_a_deployment_starts_builds_of_its_own_project_only(roles: Roles) -> None:
    def start(project: str) -> Call:
        return Call("codebuild", "StartBuild", "", {"projectName": project})

    assert decided(roles, "RequestStarterRole", start("synkti-model"))
    assert not decided(roles, "RequestStarterRole", start("another-model"))


def test_a_build_writes_models_and_reads_one_secret(roles: Roles) -> None:
    def secret(name: str) -> Call:
        return Call("secretsmanager", "GetSecretValue", "", {"SecretId": name})

    assert decided(roles, "JobRole", s3("PutObject", MODELS, "models/model/config.json"))
    assert decided(roles, "JobRole", secret("synkti-hub-token"))
    for call in (
        s3("ListObjectsV2", MODELS),
        s3("PutObject", MODELS, "other/model/config.json"),
        s3("PutObject", CHECKPOINTS, "models/model/config.json"),
        secret("synkti/cluster-key"),
        secret("another"),
    ):
        assert not decided(roles, "JobRole", call), call


def test_the_check_counts_in_the_index_and_lists_nothing_else(roles: Roles) -> None:
    def query(**more: str) -> Call:
        return Call("dynamodb", "Query", "", {"TableName": TABLE, **more})

    assert decided(roles, "fleetcheckedRole", query(IndexName=STATUS_INDEX))
    assert not decided(roles, "fleetcheckedRole", query(IndexName="another"))
    assert not decided(roles, "fleetcheckedRole", query())


def test_a_node_reports_only_that_it_gave_up(roles: Roles) -> None:
    def put(source: str, kind: str, bus: str = "default") -> Call:
        return Call(
            "events", "PutEvents", "", {"Entries": [{"Source": source, "DetailType": kind, "EventBusName": bus}]}
        )

    assert decided(roles, "NodeRole", put(NODE_EVENT_SOURCE, GAVE_UP_EVENT))
    assert not decided(roles, "NodeRole", put("synkti.drill", "EC2 Spot Instance Interruption Warning"))
    assert not decided(roles, "NodeRole", put(NODE_EVENT_SOURCE, "another"))
    assert not decided(roles, "NodeRole", put(NODE_EVENT_SOURCE, GAVE_UP_EVENT, "another"))
    assert not decided(roles, "NodeRole", put(NODE_EVENT_SOURCE, GAVE_UP_EVENT), source=None)


def s3(operation: str, bucket: str, key: str = "", **more: str) -> Call:
    return Call("s3", operation, "", {"Bucket": bucket, **({"Key": key} if key else {}), **more})


def test_a_node_lists_and_reads_its_model_and_no_other(roles: Roles) -> None:
    assert decided(roles, "NodeRole", s3("ListObjectsV2", MODELS, Prefix="models/model/"))
    assert decided(roles, "NodeRole", s3("GetObject", MODELS, "models/model/config.json"))
    for call in (
        s3("ListObjectsV2", MODELS),
        s3("ListObjectsV2", MODELS, Prefix=""),
        s3("ListObjectsV2", MODELS, Prefix="models/"),
        s3("ListObjectsV2", MODELS, Prefix="models/model-2/"),
        s3("ListObjectsV2", CHECKPOINTS, Prefix="models/model/"),
        s3("GetObject", MODELS, "models/model-2/config.json"),
        s3("PutObject", MODELS, "models/model/config.json"),
        s3("DeleteObject", MODELS, "models/model/config.json"),
        s3("DeleteObject", CHECKPOINTS, "journals/x"),
        s3("PutObject", "another-bucket", "journals/x"),
    ):
        assert not decided(roles, "NodeRole", call), call


WHEEL, KERNELS = f"{WHEELS_PREFIX}agent-0123456789abcdef/a.whl", f"{CACHES_PREFIX}g6.xlarge-0123456789abcdef.tar"


def test_a_node_reads_packages_and_never_writes_them(roles: Roles) -> None:
    assert decided(roles, "NodeRole", s3("GetObject", MODELS, WHEEL))
    assert decided(roles, "NodeRole", s3("ListObjectsV2", MODELS, Prefix=WHEELS_PREFIX))
    assert not decided(roles, "NodeRole", s3("PutObject", MODELS, WHEEL))
    assert not decided(roles, "NodeRole", s3("PutObject", MODELS, WHEEL, IfNoneMatch="*"))
    assert not decided(roles, "NodeRole", s3("ListObjectsV2", MODELS, Prefix="bin/"))


def test_a_node_stores_kernels_only_where_there_are_none(roles: Roles) -> None:
    assert decided(roles, "NodeRole", s3("GetObject", MODELS, KERNELS))
    assert decided(roles, "NodeRole", s3("PutObject", MODELS, KERNELS, IfNoneMatch="*"))
    assert not decided(roles, "NodeRole", s3("PutObject", MODELS, KERNELS)), "it would replace what is there"
    assert not decided(roles, "NodeRole", s3("DeleteObject", MODELS, KERNELS))


def test_the_workflow_completes_the_wheelhouse_and_writes_nothing_else(recorded: RecordedCalls, roles: Roles) -> None:
    calls = [call for call in recorded.operator if call.module == "cli/adapters/wheelhouse_bucket.py"]
    assert {"ListObjectsV2", "GetObject", "PutObject"} <= {call.operation for call in calls}
    for call in (*calls, s3("PutObject", MODELS, WHEEL), s3("AbortMultipartUpload", MODELS, WHEEL)):
        assert decided(roles, "Deployer", call), call
    for call in (
        s3("PutObject", MODELS, "models/model/config.json"),
        s3("PutObject", MODELS, KERNELS),
        s3("DeleteObject", MODELS, WHEEL),
        s3("GetObject", MODELS, "models/model/config.json"),
        s3("ListObjectsV2", MODELS, Prefix="models/"),
    ):
        assert not decided(roles, "Deployer", call), call


def test_a_node_reads_the_agents_archive_and_no_other_asset(roles: Roles) -> None:
    arns = {
        arn
        for statement in roles.statements["NodeRole"]
        for arn in _listed(statement["Resource"])
        if arn.startswith(f"arn:aws:s3:::{ASSETS}/")
    }
    (archive,) = arns
    assert archive.endswith(".tar")
    assert "*" not in archive
    assert not decided(roles, "NodeRole", s3("GetObject", ASSETS.replace("assets", "asset"), "x.tar"))


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reaches_what_is_not_the_clusters(role: str, roles: Roles) -> None:
    foreign = (
        Request("dynamodb:GetItem", f"arn:aws:dynamodb:{HERE}:table/another-records"),
        Request("dynamodb:GetItem", f"arn:aws:dynamodb:{REGION}:999999999999:table/{TABLE}"),
        Request("dynamodb:Scan", f"arn:aws:dynamodb:{HERE}:table/{TABLE}"),
        Request("dynamodb:DeleteTable", f"arn:aws:dynamodb:{HERE}:table/{TABLE}"),
        Request("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:another/cluster-key-AbCdEf"),
        Request("secretsmanager:PutSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:synkti/cluster-key-AbCdEf"),
        Request("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:another/client-keys-AbCdEf"),
        Request("secretsmanager:PutSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:synkti/client-keys-AbCdEf"),
        Request(
            "secretsmanager:UpdateSecretVersionStage", f"arn:aws:secretsmanager:{HERE}:secret:synkti/client-keys-AbCdEf"
        ),
        Request("autoscaling:CompleteLifecycleAction", group_arn("another-fleet")),
        Request("autoscaling:SuspendProcesses", group_arn("another-fleet")),
        Request("autoscaling:TerminateInstanceInAutoScalingGroup", group_arn(GROUP)),
        Request("ec2:RunInstances", f"arn:aws:ec2:{HERE}:instance/*"),
        Request("ec2:TerminateInstances", f"arn:aws:ec2:{HERE}:instance/{NODE}"),
        Request("ec2:CreateTags", f"arn:aws:ec2:{HERE}:volume/vol-1", {"aws:TagKeys": ("SynktiState",)}),
        Request("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "AWS/EC2"}),
        Request("cloudwatch:PutMetricData", "*"),
        Request("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/x"),
        Request("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-deploy-role-{ACCOUNT}-{REGION}"),
        Request("logs:PutLogEvents", f"arn:aws:logs:{HERE}:log-group:/another:*"),
    )
    allowed = [each for each in foreign if evaluate(roles.statements[role], each).is_allowed]
    assert allowed == []


def test_what_the_workflows_call_is_allowed_to_the_watcher_only(roles: Roles) -> None:
    calls = list(shell_calls(".github/workflows", "*.yml"))
    assert [call.operation for call in calls] == ["GetParameter"]
    for call in calls:
        (request,) = requests_of(call)
        assert call.faults == ""
        assert evaluate(roles.statements["Watcher"], request).is_allowed
        assert not evaluate(roles.statements["Deployer"], request).is_allowed
        other = replace(request, resource=request.resource.replace("deeplearning", "ecs"))
        assert not evaluate(roles.statements["Watcher"], other).is_allowed
