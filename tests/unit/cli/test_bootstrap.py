"""The steps of `synkti bootstrap`, with a CDK that only writes stacks down."""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from pathlib import Path

import boto3
import pytest

from cli import bootstrap, destroy
from cli.adapters import account_facts, doctor_collector
from cli.core.account_facts import ImageFacts
from cli.core.network import Subnet, Vpc, WayOut
from cli.core.resource_import import import_template, retained
from node_agent.contract.names import auto_scaling_group_name
from node_agent.core.access.caller import Caller, Scope
from node_agent.core.access.client_key import parse_key
from node_agent.core.access.key_document import parse_key_document
from node_agent.core.access.key_ring import KeyRing
from tests.unit.cli import weights
from tests.unit.cli.conftest import ACCOUNT, REGION, Run, make_fleet
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.cli.memory_cdk import BUCKET, STATE, MemoryCdk, cdk, model
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.cli.stand_in_hub import stand_in_hub
from tests.unit.core.sizing.models import LLAMA_3_1_8B, LLAMA_3_1_70B, WEIGHTS

__all__ = ["cdk", "model"]  # fixtures


def test_bootstrap_runs_all_steps_in_order(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    document = run("bootstrap", "--model", model, "--yes", "--json").document
    assert cdk.ran == [
        "synth",
        f"bootstrap {ACCOUNT}/{REGION}",
        "deploy synkti-state",
        "synth",
        "deploy everything",
    ]
    assert document["changed"] == ["CDKToolkit", "models/model", "synkti-state", "synkti-fleet", "key"]
    assert (document["ready"], document["desired"], document["version"]) == (2, 2, "v2")
    assert len(document["base_urls"]) == 2


def test_a_second_bootstrap_changes_nothing(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    assert run("bootstrap", "--model", model, "--yes").code == 0
    cdk.ran.clear()
    document = run("bootstrap", "--yes", "--json").document
    assert document["changed"] == []
    assert cdk.ran == ["synth", "synth", "deploy everything"], "without a file the weights are pinned each time"
    assert "nothing had to be changed" in run("bootstrap", "--yes").err


def test_the_first_key_is_printed_once_and_works(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    first = run("bootstrap", "--model", model, "--yes")
    (line,) = [line for line in first.out.splitlines() if line.startswith("OPENAI_API_KEY=")]
    key = parse_key(line.partition("=")[2].encode())
    assert key is not None
    client = boto3.client("secretsmanager")
    stored = client.get_secret_value(SecretId="synkti/client-keys", VersionStage="AWSCURRENT")["SecretString"]
    caller = KeyRing(parse_key_document(stored.encode())).identify(key, time.time())
    assert isinstance(caller, Caller)
    assert caller.scopes == {Scope.INFERENCE, Scope.FLEET}, "no more than an application needs"
    assert "printed only now" in first.err
    assert "OPENAI_API_KEY=" not in run("bootstrap", "--yes").out
    run("keys", "revoke", "first")
    assert "OPENAI_API_KEY=" not in run("bootstrap", "--yes").out, "a cluster had its first key, revoked or not"


def test_without_keys_bootstrap_makes_none_and_warns(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    done = run("bootstrap", "--model", model, "--yes", "-c", "api_keys=false")
    assert "OPENAI_API_KEY=" not in done.out
    assert "whoever reaches a node may use it" in done.out
    assert run("keys", "list").out.startswith("there are no keys")


def test_packages_are_uploaded_between_the_bucket_and_the_nodes(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    cdk.lacking = ["tools", "engine"]
    document = run("bootstrap", "--model", model, "--yes", "--json").document
    assert cdk.ran[2:] == ["deploy synkti-state", "packages", "synth", "deploy everything"]
    assert document["changed"][:3] == ["CDKToolkit", "packages/tools", "packages/engine"]


def test_packages_are_left_to_the_workflow_if_asked_to(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    cdk.lacking = ["engine"]
    assert "package index" in run("bootstrap", "--model", model, "--yes", "--no-packages").out, "doctor's warning"
    assert "packages" not in cdk.ran


def test_a_bootstrap_after_a_stop_starts_the_nodes_again(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    """CloudFormation changes no size where the template is the same: 0 of 0 nodes were ready, which was a success."""
    assert run("bootstrap", "--model", model, "--yes").code == 0
    held = cdk.cloudformation.stacks["synkti-fleet"]
    held.outputs = {**held.outputs, "MinNodes": "0", "MaxNodes": "4", "Nodes": "2"}
    fleet = boto3.client("autoscaling")
    group = auto_scaling_group_name("synkti")
    assert run("stop", "--yes").code == 0
    done = run("bootstrap", "--yes", "--no-wait", "--json")
    assert (done.document["changed"], done.document["desired"]) == (["size"], 2)
    (seen,) = fleet.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
    assert (seen["MinSize"], seen["MaxSize"], seen["DesiredCapacity"]) == (0, 4, 2)
    assert run("bootstrap", "--yes", "--no-wait", "--json").document["changed"] == []


def test_without_a_model_no_node_is_started(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    done = run("bootstrap", "--yes")
    assert done.code == 4
    assert "--model DIR" in done.err
    assert cdk.ran[-1] == "deploy synkti-state", "the bucket is there, so that a model can be pushed"
    assert run("model", "push", model, "--name", "model").code == 0
    cdk.ran.clear()
    assert run("bootstrap", "--yes").code == 0
    assert cdk.ran == ["synth", "synth", "deploy everything"]


def test_a_bootstrap_pins_the_weights_in_the_settings_and_in_what_it_deploys(
    cdk: type[MemoryCdk], model: Path, run: Run, nowhere: Path
) -> None:
    file = nowhere / "synkti.toml"
    file.write_text('nodes = 3\n# model_sha256 = ""  # pins\n')
    done = run("bootstrap", "--model", model, "--yes")
    assert done.code == 0
    pinned = tomllib.loads(file.read_text())["model_sha256"]
    assert re.fullmatch("[0-9a-f]{64}", pinned)
    assert f'synkti.toml has now model_sha256 = "{pinned}"' in done.err
    assert cdk.contexts[-1]["model_sha256"] == pinned, "the templates that are deployed"
    cdk.ran.clear()
    assert run("bootstrap", "--yes").code == 0
    assert cdk.ran == ["synth", "deploy everything"], "it is pinned already"


def test_with_model_source_a_bootstrap_pins_nothing(cdk: type[MemoryCdk], model: Path, run: Run, nowhere: Path) -> None:
    """The next deployment may fetch another model, whose nodes the old pin would refuse."""
    text = 'model_source = "acme/tiny"\n'
    (nowhere / "synkti.toml").write_text(text)
    run("bootstrap", "--model", model, "--yes")
    assert (nowhere / "synkti.toml").read_text() == text
    assert all("model_sha256" not in context for context in cdk.contexts)


def test_ids_of_the_default_vpc_are_written_into_the_settings(
    cdk: type[MemoryCdk], model: Path, run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subnets = (Subnet("subnet-01234567", "us-east-1a", 9, "rtb-01234567", WayOut.INTERNET),)
    monkeypatch.setattr(account_facts, "_vpc", lambda ec2, settings: Vpc("vpc-01234567", subnets))
    file = nowhere / "synkti.toml"
    text = f'account = "{ACCOUNT}"\nregion = "{REGION}"\nvpc = "default"  # ours\n'
    file.write_text(text)
    assert run("bootstrap", "--model", model).code == 9
    assert file.read_text() == text, "nothing is written before the confirmation"
    overridden = run("bootstrap", "--model", model, "--yes", "-c", "nodes=2")
    assert (overridden.code, file.read_text()) == (0, text), "with -c it may be another deployment than the file's"
    assert "add it to synkti.toml:" in overridden.err
    done = run("bootstrap", "--model", model, "--yes")
    assert file.read_text().startswith(
        text + 'vpc_id = "vpc-01234567"\nsubnet_ids = ["subnet-01234567"]\nroute_table_ids = ["rtb-01234567"]\n'
    )
    assert "synkti.toml has now:" in done.err
    assert "commit it" in done.err
    assert "synkti.toml has now" not in run("bootstrap", "--yes").err, "the second time nothing is missing"


def test_the_newest_image_is_pinned_once(
    cdk: type[MemoryCdk], model: Path, run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = ["ami-01234567"]
    monkeypatch.setattr(account_facts, "_image", lambda account, settings: ImageFacts(newest[0], is_there=True))
    file = nowhere / "synkti.toml"
    file.write_text("nodes = 3\n")
    assert run("bootstrap", "--model", model, "--yes").code == 0
    assert file.read_text().startswith('nodes = 3\nbase_image_id = "ami-01234567"\nmodel_sha256 = ')
    newest[0] = "ami-89abcdef"
    assert run("bootstrap", "--yes").code == 0
    assert "ami-89abcdef" not in file.read_text()


def test_weights_other_than_the_pinned_ones_are_refused(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    done = run("bootstrap", "--model", model, "--yes", "-c", f"model_sha256={'0' * 64}")
    assert done.code == 1
    assert 'model_sha256 = "' in done.err
    assert "deploy everything" not in cdk.ran


def test_nothing_is_created_before_a_confirmation(cdk: type[MemoryCdk], model: Path, run: Run) -> None:
    done = run("bootstrap", "--model", model)
    assert done.code == 9
    assert f"account {ACCOUNT}, region us-east-1: 3 nodes of g6.xlarge" in done.err
    assert cdk.ran == []


def test_a_fault_stops_bootstrap_before_anything_is_created(
    cdk: type[MemoryCdk], model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_collector, "_quotas", lambda account, types: {"L-3819A6DF": 0.0, "L-DB2E81BA": 64.0})
    done = run("bootstrap", "--model", model, "--yes")
    assert done.code == 3
    assert "gpu spot quota" in done.out
    assert cdk.ran == []
    assert run("bootstrap", "--model", model, "--yes", "--anyway").code == 0


def test_a_model_that_does_not_fit_stops_bootstrap_before_anything_is_created(
    cdk: type[MemoryCdk], model: Path, run: Run
) -> None:
    (model / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    (model / "model.safetensors").write_bytes(b"")
    os.truncate(model / "model.safetensors", WEIGHTS["llama"])  # a hole: it takes no space
    types = "instance_types=g6.xlarge,g4dn.xlarge"
    done = run("bootstrap", "--model", model, "--yes", "-c", types)
    assert done.code == 3
    assert "g4dn.xlarge cannot run model: 14.5 GiB of a T4" in done.out
    assert 'set instance_types = ["g6.xlarge"] in synkti.toml' in done.out
    assert cdk.ran == []


def test_a_model_on_the_hub_is_judged_by_its_documents(
    cdk: type[MemoryCdk], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    with stand_in_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.add("acme/large", {**weights.model(), "config.json": json.dumps(LLAMA_3_1_70B).encode()})
        hub.claimed = {"model.safetensors": 141_107_412_992}
        done = run("bootstrap", "--model", "acme/large", "--yes")
        assert (done.code, "g6.xlarge cannot run model" in done.out) == (3, True)
        hub.add("acme/private", {}, private=True)
        for name in ("acme/private", "acme/nothing"):
            assert run("bootstrap", "--model", name, "--yes").code == 6
    assert cdk.ran == []


def test_a_failed_deployment_reports_the_reason_of_cloudformation(
    cdk: type[MemoryCdk], aws: MemoryCloudFormation, model: Path, run: Run
) -> None:
    cdk.fails = "everything"
    aws.undeletable["synkti-state"] = "no more buckets"  # the reason in its events
    done = run("bootstrap", "--model", model, "--yes")
    assert done.code == 1
    assert "❌ synkti-fleet" in done.err
    assert "synkti-state: Checkpoints: no more buckets" in done.err
    cdk.fails = ""
    assert run("bootstrap", "--yes").code == 0, "it continues from there"


def test_missing_nodes_are_waited_for_a_bounded_time(
    cdk: type[MemoryCdk], aws: MemoryCloudFormation, model: Path, run: Run
) -> None:
    assert run("bootstrap", "--model", model, "--yes").code == 0
    ec2 = boto3.client("ec2")
    ids = [i["InstanceId"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    ec2.delete_tags(Resources=ids, Tags=[{"Key": "SynktiState"}])
    done = run("bootstrap", "--yes", "--within", "60")
    assert (done.code, "0 of 2 nodes ready on version v2 after 60 s" in done.err) == (8, True)
    assert run("bootstrap", "--yes", "--no-wait").code == 0


def test_another_account_than_in_the_settings_is_refused(cdk: type[MemoryCdk], run: Run) -> None:
    done = run("bootstrap", "--yes", "--anyway", "-c", "account=999999999999")
    assert (done.code, "these credentials are for" in done.err) == (78, True)


def test_a_second_cluster_has_to_be_named(cdk: type[MemoryCdk], aws: MemoryCloudFormation, run: Run) -> None:
    make_fleet(aws, "prod")
    done = run("bootstrap", "--yes")
    assert (done.code, "'prod'" in done.err) == (5, True)
    assert cdk.ran == []


def test_only_retained_resources_are_imported() -> None:
    arn = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:synkti/client-keys-AbCdEf"
    secret = {"AWS::SecretsManager::Secret": arn}
    (keys,) = retained(STATE, secret)
    assert keys.to_import()["ResourceIdentifier"] == {"Id": arn}
    known = {"AWS::S3::Bucket": BUCKET, "AWS::DynamoDB::Table": "synkti-records"}
    left = retained(STATE, known)
    assert [(each.logical_id, each.name) for each in left] == [("Models", BUCKET), ("Records", "synkti-records")]
    assert left[0].to_import() == {
        "ResourceType": "AWS::S3::Bucket",
        "LogicalResourceId": "Models",
        "ResourceIdentifier": {"BucketName": BUCKET},
    }
    assert set(import_template(STATE, left)) == {"Description", "Resources"}, "an import adds no outputs"
    assert set(import_template(STATE, left[:1])["Resources"]) == {"Models"}


def test_a_retained_bucket_is_imported(
    cdk: type[MemoryCdk], aws: MemoryCloudFormation, model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("bootstrap", "--model", model, "--yes").code == 0
    monkeypatch.setattr(destroy, "CLOCK", FakeClock().clock)
    monkeypatch.setattr(bootstrap, "CLOCK", FakeClock().clock)
    assert run("destroy", "--yes").code == 0
    # What CloudFormation would have deleted with the stacks.
    boto3.client("autoscaling").delete_auto_scaling_group(AutoScalingGroupName="synkti-fleet", ForceDelete=True)
    boto3.client("ec2").delete_launch_template(LaunchTemplateName="synkti-node")
    done = run("bootstrap", "--yes", "--no-wait")
    assert done.code == 0, done.err
    assert f"synkti-state imports {BUCKET}" in done.err
    (imported,) = aws.imported
    assert imported["Models"] == BUCKET
    assert imported["ClientKeys"].startswith("arn:aws:secretsmanager:us-east-1:"), "clients' keys stay valid"
    assert "OPENAI_API_KEY=" not in done.out


def test_a_failed_import_reports_the_reason(
    cdk: type[MemoryCdk], aws: MemoryCloudFormation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "CLOCK", FakeClock().clock)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    aws.unimportable = "it belongs to another stack"
    done = run("bootstrap", "--yes", "--no-wait")
    assert (done.code, "it belongs to another stack" in done.err) == (1, True)
