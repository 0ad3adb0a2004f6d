"""The `synkti` command in this process, against an AWS in memory that looks as the stacks leave it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from cli.account import Account
from cli.adapters import account_facts
from cli.main import main
from node_agent.contract.names import (
    auto_scaling_group_name,
    client_keys_secret_name,
    models_bucket_name,
    stack_name,
)
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation

REGION = "us-east-1"
ACCOUNT = "123456789012"  # moto's own
VERSION = "v2"


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
        output = capsys.readouterr()
        assert "Traceback" not in output.err
        return Done(code, output.out, output.err)

    return one


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No command finds a synkti.toml, a profile or a cluster of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SYNKTI_", "HF_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(folder / "no-hub"))
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
    monkeypatch.setattr(account_facts, "_volumes_key", lambda ec2: "")  # moto has none
    with mock_aws():
        yield cloudformation


def make_state(cloudformation: MemoryCloudFormation, cluster: str) -> str:
    """The state stack, with its models bucket; the bucket's name."""
    bucket = models_bucket_name(cluster, ACCOUNT, REGION)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)  # in us-east-1 it may be there already
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with suppress(ClientError):  # it is retained
        document = {"version": 1, "keys": [], "pepper": "p" * 64}
        boto3.client("secretsmanager").create_secret(
            Name=client_keys_secret_name(cluster), SecretString=json.dumps(document)
        )
    resources = {"Models": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "PhysicalId": bucket}}
    cloudformation.make(stack_name(cluster, "state"), cluster, {"ModelsBucket": bucket}, resources)
    return bucket


@pytest.fixture
def bucket(aws: MemoryCloudFormation) -> str:
    """The models bucket of the cluster `synkti`."""
    return make_state(aws, "synkti")


@dataclass(frozen=True)
class DeployedFleet:
    """A cluster with a group of running instances. ids: in the order in which `synkti nodes` shows them."""

    cloudformation: MemoryCloudFormation
    cluster: str
    group: str
    ids: tuple[str, ...]

    def tag(self, instance_id: str, **tags: str) -> None:
        """Synkti's own tags: State="ready"."""
        held: Any = [{"Key": f"Synkti{key}", "Value": value} for key, value in tags.items()]
        boto3.client("ec2").create_tags(Resources=[instance_id], Tags=held)

    def ready(self, version: str = VERSION) -> None:
        for instance_id in self.ids:
            self.tag(instance_id, State="ready", Version=version)

    def running(self) -> set[str]:
        """The instances of the group that run."""
        answer = boto3.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[self.group])
        return {instance["InstanceId"] for instance in answer["AutoScalingGroups"][0]["Instances"]}

    def size(self) -> tuple[int, int, int]:
        answer = boto3.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[self.group])
        group = answer["AutoScalingGroups"][0]
        return group["MinSize"], group["MaxSize"], group["DesiredCapacity"]


def make_fleet(
    cloudformation: MemoryCloudFormation, cluster: str, *, with_state: bool = True, **outputs: str
) -> DeployedFleet:
    """The state and fleet stacks of a cluster, and two instances, which moto's group runs."""
    if with_state:
        make_state(cloudformation, cluster)
    ec2, name = boto3.client("ec2"), auto_scaling_group_name(cluster)
    ec2.create_launch_template(
        LaunchTemplateName=f"{cluster}-node",
        LaunchTemplateData={"ImageId": "ami-12c6146b", "InstanceType": "g6.xlarge"},
    )
    tags = {"SynktiCluster": cluster, "SynktiRole": "worker", "SynktiVersion": VERSION}
    boto3.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=0,
        MaxSize=4,
        DesiredCapacity=2,
        AvailabilityZones=["us-east-1a"],
        LaunchTemplate={"LaunchTemplateName": f"{cluster}-node"},
        Tags=[
            {"Key": k, "Value": v, "PropagateAtLaunch": True, "ResourceId": name, "ResourceType": "auto-scaling-group"}
            for k, v in tags.items()
        ],
    )
    given = {"AutoScalingGroupName": name, "FleetVersion": VERSION, **outputs}
    cloudformation.make(stack_name(cluster, "fleet"), cluster, given, {})
    found = ec2.describe_instances(Filters=[{"Name": "tag:SynktiCluster", "Values": [cluster]}])["Reservations"]
    instances = [instance for reservation in found for instance in reservation["Instances"]]
    instances.sort(key=lambda instance: (instance["LaunchTime"], instance["InstanceId"]))
    return DeployedFleet(cloudformation, cluster, name, tuple(instance["InstanceId"] for instance in instances))


@pytest.fixture
def fleet(aws: MemoryCloudFormation) -> DeployedFleet:
    """The cluster `synkti`, with two nodes that have no tags yet."""
    return make_fleet(aws, "synkti")
