"""The `synkti` command in this process, against an AWS in memory that looks as the stacks leave it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cli.account import Account
from cli.main import main
from node_agent.contract.names import models_bucket_name, stack_name
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation

REGION = "us-east-1"
ACCOUNT = "123456789012"  # moto's own


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one document of `--json`; nothing may be beside it."""
        assert self.err == ""
        return json.loads(self.out)

    @property
    def table(self) -> list[list[str]]:
        """Lines of columns, which have two blanks between them at least."""
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def one(*argv: str | Path) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Done(code, told.out, told.err)

    return one


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No command finds a synkti.toml, a profile or a cluster of the person who runs the tests."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "SYNKTI_CLUSTER", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path_factory.mktemp("nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cloudformation() -> MemoryCloudFormation:
    return MemoryCloudFormation()


@pytest.fixture
def aws(
    nowhere: Path, cloudformation: MemoryCloudFormation, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MemoryCloudFormation]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    real = Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        return cloudformation if service == "cloudformation" else real(self, service, connections)

    monkeypatch.setattr(Account, "_client", client)
    with mock_aws():
        yield cloudformation


def make_state(cloudformation: MemoryCloudFormation, cluster: str) -> str:
    """The state stack, with its models bucket; the bucket's name."""
    bucket = models_bucket_name(cluster, ACCOUNT, REGION)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    resources = {"Models": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "PhysicalId": bucket}}
    cloudformation.make(
        stack_name(cluster, "state"), f"Synkti {cluster}: what outlives nodes", {"ModelsBucket": bucket}, resources
    )
    return bucket


@pytest.fixture
def bucket(aws: MemoryCloudFormation) -> str:
    """The models bucket of the cluster `synkti`."""
    return make_state(aws, "synkti")
