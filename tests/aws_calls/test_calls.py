"""Each call of AWS in the source is made by these tests, and botocore's models accept its parameters."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ParamValidationError

from tests.aws_calls.agent_calls import NODE
from tests.aws_calls.conftest import RecordedCalls
from tests.aws_calls.recording import recorder
from tests.aws_calls.source_calls import Site, services_of, sites

SOURCES = {
    "node_agent": {"ec2", "autoscaling", "dynamodb", "s3", "secretsmanager", "cloudwatch"},
    "lambdas": {"ec2", "autoscaling", "dynamodb", "codebuild"},
    "cli": {
        *("ec2", "autoscaling", "dynamodb", "s3", "cloudformation", "sts", "ssm", "logs", "events", "fis", "iam"),
        *("service-quotas", "cloudwatch", "sns", "pricing", "route53", "ce", "codebuild", "secretsmanager"),
    },
}
"""The services that each part may use; a new one is a permission more, and a line here."""


@pytest.mark.parametrize("folder", SOURCES)
def test_no_other_service_is_used(folder: str) -> None:
    assert services_of(folder) == SOURCES[folder]


@pytest.mark.parametrize("folder", SOURCES)
def test_each_call_in_the_source_is_made_here(folder: str, recorded: RecordedCalls) -> None:
    """A site that is missing needs its line in one of the files *_calls.py here."""
    made = {(call.module, call.function, call.operation) for call in recorded.every}
    by_library = {call.operation for call in recorded.every if not call.module}
    missing = [
        site
        for site in sites(folder, sorted(SOURCES[folder]))
        for operation in site.operations
        if (site.module, site.function, operation) not in made
        and not (len(site.operations) > 1 and operation in by_library)
    ]
    assert missing == []


def test_botocores_models_accept_the_parameters_of_each_call(recorded: RecordedCalls) -> None:
    assert len(recorded.every) > 100
    assert {(call.module, call.operation, call.faults) for call in recorded.every if call.faults} == set()


def test_a_wrong_parameter_is_a_fault() -> None:
    with recorder() as calls:
        client = boto3.client("ec2", region_name="us-east-1")
        with pytest.raises(ParamValidationError):
            client.create_tags(Resources=NODE, Tags=[{"Key": "a"}])
    (call,) = calls.calls
    assert "Invalid type for parameter Resources" in call.faults


def test_a_new_call_is_found_in_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.aws_calls.source_calls.ROOT", tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "one.py").write_text(
        "def run(self, account):\n"
        "    self._client.describe_tags()\n"
        "    account.client('ec2').get_paginator('describe_volumes').paginate()\n"
        "    self.whatever.terminate_instances()\n"
        "    s3.upload_fileobj(1)\n"
        "    self.list_buckets()\n"
        "def list_buckets(): pass\n"
    )
    assert [(site.function, site.operations[0]) for site in sites("new", ["ec2", "s3"])] == [
        ("run", "DescribeTags"),
        ("run", "DescribeVolumes"),
        ("run", "TerminateInstances"),
        ("run", "PutObject"),
    ]
    assert services_of("new") == {"ec2"}
    assert sites("new", ["ec2"])[0] == Site("new/one.py", 2, "run", "describe_tags", ("DescribeTags",))
