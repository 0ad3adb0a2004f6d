"""What the templates promise, the parts that the embedded AWS does not model above all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from node_agent.contract.names import cluster_key_secret_name, table_name
from node_agent.contract.notices import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT
from stacks.events_stack import REACTIONS
from stacks.parts.node_template import GPU_AMI_PARAMETER
from stacks.parts.reaction import RETRY_ATTEMPTS, RETRY_HOURS
from stacks.settings import FleetSettings
from tests.templates.conftest import Synthesized


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_table_outlives_mistakes(production: Synthesized) -> None:
    table = production.only("AWS::DynamoDB::Table")
    assert table["TableName"] == table_name("synkti")
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["DeletionProtectionEnabled"] is True
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]


def test_models_are_kept_and_checkpoints_expire(production: Synthesized) -> None:
    buckets = production.resources("AWS::S3::Bucket")
    models = next(bucket for name, bucket in buckets.items() if name.startswith("Models"))
    checkpoints = next(bucket for name, bucket in buckets.items() if name.startswith("Checkpoints"))
    assert (models["DeletionPolicy"], checkpoints["DeletionPolicy"]) == ("Retain", "Delete")
    assert models["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    for bucket in (models, checkpoints):
        properties = bucket["Properties"]
        assert all(properties["PublicAccessBlockConfiguration"].values())
        encryption = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]
        assert encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
        rules = properties["LifecycleConfiguration"]["Rules"]
        assert {"DaysAfterInitiation": 1} in [rule.get("AbortIncompleteMultipartUpload") for rule in rules]
    days = [rule.get("ExpirationInDays") for rule in checkpoints["Properties"]["LifecycleConfiguration"]["Rules"]]
    assert 7 in days
    for policy in production.resources("AWS::S3::BucketPolicy").values():
        denied = [s for s in policy["Properties"]["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in [statement["Condition"] for statement in denied]


def test_the_peers_key_is_made_by_secrets_manager_and_in_no_template(production: Synthesized) -> None:
    secret = production.only("AWS::SecretsManager::Secret")
    assert secret["Name"] == cluster_key_secret_name("synkti")
    assert "SecretString" not in secret
    assert secret["GenerateSecretString"]["PasswordLength"] == 64


def test_the_group_spreads_over_pools_and_replaces_early(production: Synthesized) -> None:
    group = production.only("AWS::AutoScaling::AutoScalingGroup")
    assert group["CapacityRebalance"] is True
    assert group["DesiredCapacity"] == "3"
    policy = group["MixedInstancesPolicy"]
    assert policy["InstancesDistribution"] == {
        "OnDemandBaseCapacity": 0,
        "OnDemandPercentageAboveBaseCapacity": 0,
        "SpotAllocationStrategy": "price-capacity-optimized",
    }
    types = [override["InstanceType"] for override in policy["LaunchTemplate"]["Overrides"]]
    assert types == list(FleetSettings().instance_types)
    tags = {tag["Key"]: (tag["Value"], tag["PropagateAtLaunch"]) for tag in group["Tags"]}
    assert tags["SynktiCluster"] == ("synkti", True)
    assert tags["SynktiRole"] == ("worker", True)
    hook = production.only("AWS::AutoScaling::LifecycleHook")
    assert hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
    assert (hook["DefaultResult"], hook["HeartbeatTimeout"]) == ("CONTINUE", 120)


def test_instances_are_closed_encrypted_and_need_imdsv2(production: Synthesized) -> None:
    data = production.only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    assert data["MetadataOptions"] | {"HttpTokens": "required", "HttpPutResponseHopLimit": 1} == data["MetadataOptions"]
    assert (
        data["BlockDeviceMappings"][0]["Ebs"] | {"Encrypted": True, "VolumeType": "gp3"}
        == (data["BlockDeviceMappings"][0]["Ebs"])
    )
    fleet = production.templates["synkti-fleet"]
    assert GPU_AMI_PARAMETER in [parameter.get("Default") for parameter in fleet["Parameters"].values()]
    group = production.only("AWS::EC2::SecurityGroup")
    assert [(rule["CidrIp"], rule["FromPort"], rule["ToPort"]) for rule in group["SecurityGroupIngress"]] == [
        ("203.0.113.0/24", 8000, 8000)
    ]
    peers = production.only("AWS::EC2::SecurityGroupIngress")
    assert (peers["FromPort"], peers["ToPort"]) == (8001, 8001)
    assert peers["SourceSecurityGroupId"] == peers["GroupId"]


def test_there_is_no_nat_gateway_and_s3_and_dynamodb_are_reached_inside(production: Synthesized) -> None:
    assert production.resources("AWS::EC2::NatGateway") == {}
    assert len(production.resources("AWS::EC2::VPCEndpoint")) == 2


def test_each_event_has_its_function_with_retries_and_somewhere_to_fall(production: Synthesized) -> None:
    functions = production.resources("AWS::Lambda::Function")
    assert {f["Properties"]["Handler"] for f in functions.values()} == {
        f"lambdas.handlers.{name}.handler" for name in REACTIONS
    }
    for function in functions.values():
        properties = function["Properties"]
        assert (properties["Runtime"], properties["Architectures"]) == ("python3.13", ["arm64"])
        assert properties["TracingConfig"] == {"Mode": "Active"}
        assert "DeadLetterConfig" in properties
    patterns = []
    for rule in production.resources("AWS::Events::Rule").values():
        patterns.append(rule["Properties"]["EventPattern"])
        (target,) = rule["Properties"]["Targets"]
        assert target["RetryPolicy"] == {
            "MaximumEventAgeInSeconds": RETRY_HOURS * 3600,
            "MaximumRetryAttempts": RETRY_ATTEMPTS,
        }
        assert "DeadLetterConfig" in target
    kinds = {pattern["detail-type"][0] for pattern in patterns}
    assert kinds == {INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT}
    assert all(pattern["source"] == ["aws.ec2"] for pattern in patterns), "drills are off unless asked for"
    assert len(production.resources("AWS::CloudWatch::Alarm")) == 2 * len(REACTIONS)
    assert all(g["Properties"]["RetentionInDays"] == 30 for g in production.resources("AWS::Logs::LogGroup").values())


def test_nothing_may_do_everything(production: Synthesized) -> None:
    policies = [
        *production.resources("AWS::IAM::Policy").values(),
        *production.resources("AWS::IAM::ManagedPolicy").values(),
    ]
    assert policies
    for policy in policies:
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            for action in as_list(statement["Action"]):
                assert "*" not in action, statement
            if statement["Resource"] == "*":
                assert set(as_list(statement["Action"])) <= {
                    "ec2:DescribeInstances",
                    "xray:PutTraceSegments",
                    "xray:PutTelemetryRecords",
                }
    for role in production.resources("AWS::IAM::Role").values():
        assert "ManagedPolicyArns" not in role["Properties"], role


def test_a_node_may_tag_only_itself(production: Synthesized) -> None:
    statements = [
        statement
        for policy in production.resources("AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement.get("Sid") == "TagItself"
    ]
    (statement,) = statements
    condition = statement["Condition"]
    assert condition["StringLike"] == {"aws:userid": "*:${ec2:InstanceID}"}
    assert condition["StringEquals"] == {"ec2:ResourceTag/SynktiCluster": "synkti"}


def test_the_package_holds_the_lambdas_and_the_contract_and_nothing_else(production: Synthesized) -> None:
    (asset,) = production.folder.glob("asset.*")
    files = {path.relative_to(asset).as_posix() for path in asset.rglob("*") if path.is_file()}
    assert "lambdas/handlers/node_interrupted.py" in files
    assert "node_agent/contract/records.py" in files
    allowed = ("lambdas/", "node_agent/contract/", "node_agent/__init__.py")
    assert [file for file in files if not file.startswith(allowed)] == []
    assert sum((asset / file).stat().st_size for file in files) < 100_000


def test_the_local_templates_differ_in_the_named_places_only(production: Synthesized, local: Synthesized) -> None:
    """docs/architecture.md lists them; whatever else differed would make the local run prove less than it says."""
    different: set[str] = set()
    for stack, template in production.templates.items():
        theirs, ours = flatten(template), flatten(local.templates[stack])
        for place in theirs.keys() | ours.keys():
            if theirs.get(place) != ours.get(place):
                different.add(".".join(part for part in place.split(".") if not part.isdigit())[:120])
    kinds = {kind for kind in map(name_of, different) if kind is not None}
    assert kinds == {"deletion protection of the table", "image", "layers", "peers' rule"}


def flatten(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = ((f"{place}.{key}" if place else key, each) for key, each in value.items())
    elif isinstance(value, list):
        items = ((f"{place}.{number}", each) for number, each in enumerate(value))
    else:
        return {place: value}
    return {key: found for where, each in items for key, found in flatten(each, where).items()}


def name_of(place: str) -> str:
    known = {
        "DeletionProtectionEnabled": "deletion protection of the table",
        "DeletionPolicy": "deletion protection of the table",
        "UpdateReplacePolicy": "deletion protection of the table",
        ".Layers": "layers",
        "ImageId": "image",
        "Parameters.SsmParameterValue": "image",
        "SecurityGroupIngress": "peers' rule",
        "NetworkNodesfrom": "peers' rule",
    }
    return next((name for mark, name in known.items() if mark in place), place)


def test_cfn_lint_has_nothing_to_say(production: Synthesized) -> None:
    files = [str(path) for path in production.folder.glob("*.template.json")]
    # W3005: CDK names a role as a dependency although the function refers to it; harmless, and not ours to change.
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--ignore-checks", "W3005", "--", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_units_stop_time_leaves_a_drain_its_deadline() -> None:
    unit = (Path(__file__).parents[2] / "stacks" / "boot" / "synkti-node.service").read_text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert int(settings["TimeoutStopSec"]) > 90
    assert settings["RestartPreventExitStatus"] == "78"
    assert settings["KillMode"] == "mixed"
    assert json.dumps(settings["ExecStart"]).endswith('-m node_agent"')
