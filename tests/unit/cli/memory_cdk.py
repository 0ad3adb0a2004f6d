"""A CDK that only writes stacks down, and a model to deploy with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import boto3
import pytest

from cli import bootstrap, endpoint, nodes
from cli.adapters import doctor_collector
from cli.errors import Failed
from node_agent.contract.names import models_bucket_name
from tests.unit.cli import weights
from tests.unit.cli.conftest import ACCOUNT, REGION, make_fleet, make_state
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation

BUCKET = models_bucket_name("synkti", ACCOUNT, REGION)
STATE = {
    "Description": "Synkti synkti: what outlives nodes",
    "Outputs": {"ModelsBucket": {"Value": BUCKET}},
    "Resources": {
        "Models": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "Properties": {}},
        "Policy": {"Type": "AWS::S3::BucketPolicy", "Properties": {}},
        "Checkpoints": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Delete", "Properties": {}},
        "ClientKeys": {"Type": "AWS::SecretsManager::Secret", "DeletionPolicy": "Retain", "Properties": {}},
        "Records": {"Type": "AWS::DynamoDB::Table", "DeletionPolicy": "Retain", "Properties": {}},
    },
}


class MemoryCdk:
    """Deploys into CloudFormation in memory: the state stack, then the others. ran: the calls, in order.

    contexts: of each synthesis.
    """

    ran: list[str]
    contexts: ClassVar[list[Mapping[str, str]]] = []
    cloudformation: MemoryCloudFormation
    fails: str = ""
    lacking: list[str]
    """The sets of packages that the wheelhouse lacks."""

    def __init__(self, project: object, environ: object, context: Mapping[str, str], *_: object) -> None:
        self.on_progress = None
        self._context = context

    def synth(self, output: Path) -> Path:
        self.ran.append("synth")
        self.contexts.append(self._context)
        output.mkdir()
        stack = {"type": "aws:cloudformation:stack", "properties": {"templateFile": "state.json"}}
        (output / "manifest.json").write_text(json.dumps({"artifacts": {"synkti-state": stack}}))
        (output / "state.json").write_text(json.dumps(STATE))
        return output

    def bootstrap(self, account: str, region: str) -> None:
        self.ran.append(f"bootstrap {account}/{region}")
        boto3.client("ssm").put_parameter(Name=doctor_collector.TOOLKIT_PARAMETER, Value="30", Type="String")

    def deploy(self, assembly: Path, names: Sequence[str], *, direct: bool, within_s: float) -> None:
        self.ran.append("deploy " + (" ".join(names) or "everything"))
        if self.fails in self.ran[-1] and self.fails:
            raise Failed("cdk deploy failed:\n❌ synkti-fleet", "its whole output: log")
        if "synkti-state" not in self.cloudformation.stacks:
            make_state(self.cloudformation, "synkti")
        if not names and "synkti-fleet" not in self.cloudformation.stacks:
            make_fleet(self.cloudformation, "synkti", with_state=False).ready()


@pytest.fixture
def cdk(aws: MemoryCloudFormation, monkeypatch: pytest.MonkeyPatch) -> type[MemoryCdk]:
    return install_cdk(aws, monkeypatch)


def install_cdk(aws: MemoryCloudFormation, monkeypatch: pytest.MonkeyPatch) -> type[MemoryCdk]:
    MemoryCdk.ran, MemoryCdk.cloudformation, MemoryCdk.fails, MemoryCdk.lacking = [], aws, "", []
    MemoryCdk.contexts = []
    monkeypatch.setattr(bootstrap, "Cdk", MemoryCdk)

    def push(*_: object) -> list[str]:
        """Push what is lacking: tests/unit/cli/test_wheelhouse.py has the command itself."""
        pushed = MemoryCdk.lacking.copy()
        MemoryCdk.lacking.clear()
        MemoryCdk.ran += ["packages"] if pushed else []
        return pushed

    monkeypatch.setattr(bootstrap, "push_packages", push)
    monkeypatch.setattr(nodes, "CLOCK", FakeClock().clock)
    monkeypatch.setattr(endpoint, "is_reachable", lambda url: False)
    monkeypatch.setattr(bootstrap, "is_reachable", lambda url: False)
    monkeypatch.setattr(doctor_collector, "_quotas", lambda account, types: {"L-3819A6DF": 640.0, "L-DB2E81BA": 64.0})
    return MemoryCdk


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    for name, body in weights.model().items():
        (tmp_path / "weights" / name).write_bytes(body)
    return tmp_path / "weights"
