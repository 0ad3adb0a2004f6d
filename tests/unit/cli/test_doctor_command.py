"""`synkti doctor` with an AWS in memory: what it collects, and its output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from cli import doctor as command
from cli.adapters import account_facts, cdk, doctor_collector
from tests.unit.cli.conftest import DeployedFleet, Run, make_fleet
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.cli.test_quotas import G_DEMAND, G_SPOT
from tests.unit.cli.weights import model
from tests.unit.core.sizing.models import LLAMA_3_1_8B

KEY = "arn:aws:kms:us-east-1:123456789012:key/0a1b"


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The answers of Service Quotas; moto has only its own defaults."""
    values = {G_SPOT: 64.0, G_DEMAND: 64.0}
    monkeypatch.setattr(doctor_collector, "_quotas", lambda account, types: values)
    return values


def verdicts(document: Any) -> dict[str, str]:
    return {finding["check"]: finding["verdict"] for finding in document["findings"]}


def test_doctor_reports_a_verdict_for_each_check(fleet: DeployedFleet, quota: dict[str, float], run: Run) -> None:
    done = run("doctor", "--no-templates", "--json")
    assert done.code == 3
    reported = verdicts(done.document)
    assert reported["credentials"] == "ok"
    assert reported["region"] == "ok"
    assert reported["gpu spot quota"] == "ok"
    assert reported["cdk bootstrap"] == "warning"
    assert reported["model"] == "fault"
    assert reported["templates"] == "unknown"
    boto3.client("ssm").put_parameter(Name=doctor_collector.TOOLKIT_PARAMETER, Value="30", Type="String")
    assert verdicts(run("doctor", "--no-templates", "--json").document)["cdk bootstrap"] == "ok"


def test_doctor_names_the_types_that_a_region_does_not_offer(
    aws: MemoryCloudFormation, quota: dict[str, float], run: Run
) -> None:
    reported = run("doctor", "--no-templates", "--region", "eu-west-1", "--json").document["findings"]
    (types,) = [each for each in reported if each["check"] == "instance types"]
    assert types["verdict"] == "fault"
    assert types["found"] == "eu-west-1 does not offer g6.xlarge, g6.2xlarge"
    assert types["advice"].startswith('set instance_types = ["g5.xlarge", "g5.2xlarge"')


def test_doctor_reads_the_model_in_the_bucket(bucket: str, quota: dict[str, float], run: Run, tmp_path: Path) -> None:
    for name, body in (model() | {"config.json": json.dumps(LLAMA_3_1_8B).encode()}).items():
        (tmp_path / name).write_bytes(body)
    assert run("model", "push", tmp_path, "--name", "model", "--unchecked").code == 0
    reported = run("doctor", "--no-templates", "--json").document["findings"]
    (fit,) = [each for each in reported if each["check"] == "model fit"]
    assert (fit["verdict"], "not the config.json of these weights" in fit["found"]) == ("fault", True)


def test_doctor_for_people(fleet: DeployedFleet, quota: dict[str, float], run: Run) -> None:
    quota[G_SPOT] = 0.0
    done = run("doctor", "--no-templates")
    assert done.code == 3
    lines = done.out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("FAULT    gpu spot quota"))
    assert lines[at + 1].strip().startswith("-> aws service-quotas request-service-quota-increase")


def test_doctor_without_credentials_reports_it_once(run: Run) -> None:
    done = run("doctor", "--no-templates", "--region", "us-east-1", "--json")
    assert done.code == 3
    reported = verdicts(done.document)
    assert reported["credentials"] == "fault"
    assert {reported[check] for check in ("region", "gpu spot quota", "machine image", "stacks", "model")} == {
        "unknown"
    }


def test_doctor_in_an_unknown_region_is_a_fault(aws: MemoryCloudFormation, run: Run) -> None:
    reported = verdicts(run("doctor", "--no-templates", "--region", "us-esat-1", "--json").document)
    assert (reported["region"], reported["credentials"]) == ("fault", "unknown")


def test_doctor_examines_wrong_settings_too(aws: MemoryCloudFormation, run: Run, nowhere: Path) -> None:
    (nowhere / "synkti.toml").write_text("nodes = 0\nnods = 3\n")
    done = run("doctor", "--json")
    assert done.code == 3
    (settings,) = [each for each in done.document["findings"] if each["check"] == "settings"]
    assert "nodes=0" in settings["found"]
    assert "'nods'" in settings["found"]
    assert verdicts(done.document)["templates"] == "unknown"


def test_an_invalid_setting_is_reported_before_any_other_check(run: Run) -> None:
    done = run("doctor", "-c", "nods=3")
    assert (done.code, "is 'nodes' meant?" in done.err) == (2, True)
    assert run("doctor", "-c", "nodes").code == 2


class MemoryCdk:
    """Synthesizes one short and one long template."""

    def __init__(self, *_: object) -> None: ...

    def synth(self, output: Path) -> Path:
        output.mkdir(parents=True)
        (output / "manifest.json").write_text(
            '{"artifacts": {"a": {"type": "aws:cloudformation:stack", "properties": {"templateFile": "a.json",'
            ' "requiresBootstrapStackVersion": 6}}, "b": {"type": "aws:cloudformation:stack", "properties":'
            ' {"templateFile": "b.json"}}, "c": {"type": "cdk:asset-manifest"}}}'
        )
        (output / "a.json").write_text("{}")
        (output / "b.json").write_text(" " * 60_000)
        return output


def test_templates_are_synthesized_and_validated_by_cloudformation(
    aws: MemoryCloudFormation, quota: dict[str, float], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Cdk", MemoryCdk)
    reported = run("doctor", "--json").document["findings"]
    (templates,) = [each["found"] for each in reported if each["check"] == "templates"]
    assert templates == "2 are synthesized; CloudFormation accepts 1, 1 are too long to ask about"
    aws.invalid = "Template format error"
    reported = run("doctor", "--json").document["findings"]
    assert [each["found"] for each in reported if each["check"] == "templates"] == ["a: Template format error"]


def test_without_node_the_templates_are_unknown(
    aws: MemoryCloudFormation, quota: dict[str, float], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cdk.node_version() is None
    reported = verdicts(run("doctor", "--json").document)
    assert (reported["node.js"], reported["templates"], reported["sessions"]) == ("fault", "unknown", "warning")


def test_a_fleet_of_another_name_is_ignored(aws: MemoryCloudFormation, quota: dict[str, float], run: Run) -> None:
    make_fleet(aws, "prod")

    def stacks(*options: str) -> str:
        reported = run("doctor", "--no-templates", "--json", *options).document["findings"]
        return next(str(each["found"]) for each in reported if each["check"] == "stacks")

    assert stacks() == "synkti is not deployed"
    assert stacks("--cluster", "prod") == "prod-events, prod-model not deployed"


def test_doctor_reads_the_keys_and_the_images_volume(
    fleet: DeployedFleet, quota: dict[str, float], run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_facts, "_volumes_key", lambda ec2: KEY)
    ec2, s3 = boto3.client("ec2"), boto3.client("s3")
    assets = "cdk-hnb659fds-assets-123456789012-us-east-1"
    s3.create_bucket(Bucket=assets)
    rule: Any = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}}
    s3.put_bucket_encryption(Bucket=assets, ServerSideEncryptionConfiguration={"Rules": [rule]})
    image = ec2.register_image(Name="own", RootDeviceName="/dev/sda1")["ImageId"]
    (nowhere / "synkti.toml").write_text(f'image_id = "{image}"\nroot_gib = 30\n')
    monkeypatch.setattr(account_facts, "_root_gib", lambda described: 45 if described["ImageId"] == image else 0)
    reported = run("doctor", "--no-templates", "--json").document["findings"]
    keys = [each["found"] for each in reported if each["check"] == "encryption keys"]
    assert [KEY in each for each in keys] == [True, True]
    (found_image,) = [each for each in reported if each["check"] == "machine image"]
    assert (found_image["verdict"], found_image["advice"]) == ("fault", "set root_gib = 45 or more")


def test_awss_own_key_of_volumes_is_none_of_the_accounts() -> None:
    def key(held: str) -> str:
        return account_facts._volumes_key(SimpleNamespace(get_ebs_default_kms_key_id=lambda: {"KmsKeyId": held}))

    assert key("alias/aws/ebs") == key("arn:aws:kms:us-east-1:123456789012:alias/aws/ebs") == ""
    assert key(KEY) == KEY


def test_the_root_volume_is_that_of_the_root_device() -> None:
    volumes = [
        {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 500}},
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 75}},
        {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral0"},
    ]
    assert account_facts._root_gib({"RootDeviceName": "/dev/sda1", "BlockDeviceMappings": volumes}) == 75
    assert account_facts._root_gib({"RootDeviceName": "/dev/xvda", "BlockDeviceMappings": volumes}) == 0
    assert account_facts._root_gib({}) == 0


def test_a_missing_region_is_a_fault_among_the_others(nowhere: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "node_version", lambda: 22)
    done = run("doctor", "--json", "-c", "nodes=0")
    assert done.code == 3
    assert verdicts(done.document) == {
        "settings": "fault",
        "settings file": "warning",
        "node.js": "ok",
        "region": "fault",
    }
    shown = run("doctor")
    assert (shown.code, "FAULT" in shown.out) == (3, True)
    (nowhere / "synkti.toml").write_text("nodes = 2\n")
    assert "settings file" not in run("doctor").out
