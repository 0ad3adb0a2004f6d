"""Permissions: the templates' policies against the table in docs/security.md, in both directions.

A permission that is not in the table fails, and so does a row that no policy grants. A row has the role, its actions,
the resources, the condition keys, and a reason, which must not be empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from checks.assemblies import EVERYTHING, Synthesized
from tests.templates.conftest import as_list

TABLE = Path(__file__).parents[2] / "docs" / "security.md"
ROLES = {
    "NodeRole": "node",
    "BuildRole": "image build",
    "nodeinterruptedRole": "node events",
    "noderebalancerecommendedRole": "node events",
    "nodestatechangedRole": "node events",
    "launchfinishedRole": "launches",
    "fleetcheckedRole": "fleet check",
    "nodegaveupRole": "breaker",
    "JobRole": "model copy",
    "RequestStarterRole": "model request",
    "SizeSetterRole": "fleet size",
    "Deployer": "GitHub",
    "Watcher": "GitHub watcher",
}
"""Name in the table by logical id without its hash. The three Lambdas of node events have the same policies."""

TRUSTED = {
    "node": "ec2.amazonaws.com",
    "image build": "ec2.amazonaws.com",
    "node events": "lambda.amazonaws.com",
    "launches": "lambda.amazonaws.com",
    "fleet check": "lambda.amazonaws.com",
    "breaker": "lambda.amazonaws.com",
    "model copy": "codebuild.amazonaws.com",
    "model request": "lambda.amazonaws.com",
    "fleet size": "lambda.amazonaws.com",
    "GitHub": "Provider",
    "GitHub watcher": "Provider",
}


@dataclass(frozen=True, order=True)
class Grant:
    role: str
    action: str
    resource: str
    conditions: tuple[str, ...] = ()


def granted(templates: Synthesized) -> set[Grant]:
    """Return every single permission that the templates grant to a role."""
    found: set[Grant] = set()
    for policy in templates.resources("AWS::IAM::Policy").values():
        properties = policy["Properties"]
        (role,) = [ROLES[bare(reference["Ref"])] for reference in properties["Roles"]]
        for statement in properties["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            keys = tuple(sorted({key for test in statement.get("Condition", {}).values() for key in test}))
            for action in as_list(statement["Action"]):
                for resource in as_list(statement["Resource"]):
                    found.add(Grant(role, action, spelled(resource), keys))
    return found


def bare(logical_id: str) -> str:
    """Return the logical id without the CDK's hash of its path."""
    return re.sub(r"[0-9A-F]{8}$", "", logical_id)


def spelled(value: Any) -> str:
    """Return a resource as the table writes it, references by the name of their target."""
    match value:
        case str():
            text = value
        case {"Ref": "AWS::Partition"}:
            text = "aws"
        case {"Ref": name}:
            text = bare(name)
        case {"Fn::GetAtt": [name, _]}:
            text = bare(name)
        case {"Fn::ImportValue": str(name)}:
            text = bare(re.sub(r"^.*Output(?:FnGetAtt|Ref)(.*?)(?:Arn)?[0-9A-F]{8}$", r"\1", name))
        case {"Fn::Sub": str(pattern)}:
            text = re.sub(r"\$\{([^}]+)\}", r"\1", pattern)
        case {"Fn::Join": [joint, pieces]}:
            text = joint.join(spelled(piece) for piece in pieces)
        case _:
            raise AssertionError(f"an unknown kind of resource: {value}")
    text = text.replace("123456789012", "ACCOUNT").replace("us-east-1", "REGION")
    text = (
        text.replace("AWS::Region", "REGION").replace("AWS::AccountId", "ACCOUNT").replace("AWS::URLSuffix", "SUFFIX")
    )
    return re.sub(r"[0-9a-f]{64}", "HASH", text)


def documented() -> set[Grant]:
    """Return the permissions of the table's rows: | role | actions | on | only where | why |."""
    found: set[Grant] = set()
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 5 or cells[0] not in TRUSTED:
            continue
        role, actions, resources, conditions, why = cells
        assert why, line
        keys = tuple(sorted(re.findall(r"`([^`]+)`", conditions)))
        for action in re.findall(r"`([^`]+)`", actions):
            for resource in re.findall(r"`([^`]+)`", resources):
                found.add(Grant(role, action, resource, keys))
    return found


def test_the_policies_grant_exactly_the_permissions_of_the_table(everything: Synthesized) -> None:
    given, listed = granted(everything), documented()
    assert sorted(given - listed) == [], "granted, and not in docs/security.md"
    assert sorted(listed - given) == [], "in docs/security.md, and not granted"


def test_fewer_features_are_granted_fewer_permissions(production: Synthesized, everything: Synthesized) -> None:
    most = granted(everything)
    assert granted(production) < most
    assert {grant.role for grant in granted(production)} == {
        "node",
        "node events",
        "launches",
        "fleet check",
        "breaker",
        "model copy",
        "fleet size",
    }


def test_an_added_or_widened_permission_differs_from_the_table(everything: Synthesized) -> None:
    grown = Synthesized(everything.folder, {"more": {"Resources": {**more("s3:DeleteObject", "*")}}})
    assert granted(grown) - documented() == {Grant("node", "s3:DeleteObject", "*")}
    wider = Synthesized(everything.folder, {"more": {"Resources": {**more("ec2:CreateTags", "*")}}})
    assert granted(wider) - documented() == {Grant("node", "ec2:CreateTags", "*")}


def more(action: str, resource: str) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    document = {"PolicyDocument": {"Statement": [statement]}, "Roles": [{"Ref": "NodeRole52753DAC"}]}
    return {"Grown": {"Type": "AWS::IAM::Policy", "Properties": document}}


def statements(templates: Synthesized) -> Iterator[dict[str, Any]]:
    for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy"):
        for policy in templates.resources(kind).values():
            yield from policy["Properties"]["PolicyDocument"]["Statement"]


def test_no_action_has_a_wildcard_and_no_managed_policy_is_used(everything: Synthesized) -> None:
    for statement in statements(everything):
        if statement["Effect"] == "Allow":
            assert not any("*" in action for action in as_list(statement["Action"])), statement
    for role in everything.resources("AWS::IAM::Role").values():
        assert "ManagedPolicyArns" not in role["Properties"], role
        assert "Policies" not in role["Properties"], role


def test_actions_on_all_resources_support_no_resource_or_have_a_condition(everything: Synthesized) -> None:
    on_everything = {grant.action for grant in granted(everything) if grant.resource == "*" and not grant.conditions}
    read_only = re.compile(r"\w+:Describe\w+")
    agents = re.compile(r"(xray:Put|ssmmessages:|ec2messages:|ssm:UpdateInstanceInformation$)\w*")
    assert [action for action in on_everything if not read_only.fullmatch(action) and not agents.match(action)] == []


def test_each_role_trusts_only_its_service(everything: Synthesized) -> None:
    for name, role in everything.resources("AWS::IAM::Role").items():
        (statement,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        (principal,) = statement["Principal"].values()
        assert spelled(principal) == TRUSTED[ROLES[bare(name)]]


def test_a_node_may_tag_only_itself(production: Synthesized) -> None:
    (statement,) = [each for each in statements(production) if each.get("Sid") == "TagItself"]
    condition = statement["Condition"]
    assert condition["StringLike"] == {"aws:userid": "*:${ec2:InstanceID}"}
    assert condition["StringEquals"] == {"ec2:ResourceTag/SynktiCluster": "synkti"}


def test_github_may_assume_only_the_roles_of_the_cdk_and_complete_the_wheelhouse(everything: Synthesized) -> None:
    theirs = {grant for grant in granted(everything) if grant.role == "GitHub"}
    assumed = {grant for grant in theirs if grant.action == "sts:AssumeRole"}
    assert assumed
    assert all(":role/cdk-hnb659fds-" in grant.resource for grant in assumed)
    packages = theirs - assumed
    written = {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}
    assert {grant.action for grant in packages} == {*written, "s3:ListBucket"}
    assert all(grant.resource.endswith("/bin/wheels/*") for grant in packages if grant.action in written)
    assert all(grant.conditions for grant in packages if grant.action == "s3:ListBucket"), "of the wheelhouse only"
    assert EVERYTHING.github_repository


@pytest.mark.parametrize("kind", ["AWS::IAM::User", "AWS::IAM::AccessKey", "AWS::EC2::KeyPair"])
def test_there_are_no_iam_users_and_no_keys(kind: str, everything: Synthesized) -> None:
    assert everything.resources(kind) == {}


if __name__ == "__main__":  # prints the table without its reasons: python -m tests.templates.test_permissions
    import tempfile

    from checks.assemblies import synthesize

    rows: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for grant in sorted(granted(synthesize(Path(tempfile.mkdtemp()), EVERYTHING))):
        rows.setdefault((grant.role, grant.resource, grant.conditions), []).append(grant.action)
    for (role, resource, keys), actions in rows.items():
        cells = ", ".join(f"`{action}`" for action in actions), f"`{resource}`", ", ".join(f"`{key}`" for key in keys)
        print(f"| {role} | {' | '.join(cells)} | |")
