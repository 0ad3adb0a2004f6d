"""Makes every call of the command line: each adapter's methods; the commands' own tests have their behaviour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from botocore.exceptions import ClientError

from checks.assemblies import ACCOUNT, IN_A_VPC, REGION
from cli import fleet, logs
from cli.account import Account
from cli.adapters import account_facts, buckets, doctor_collector
from cli.adapters.breaker import read_breaker
from cli.adapters.cluster_key_secret import ClusterKeySecret
from cli.adapters.instances import Group, Instances
from cli.adapters.key_documents import SecretKeyDocuments
from cli.adapters.model_builds import ModelBuilds
from cli.adapters.models_bucket import ModelsBucket
from cli.adapters.price_list import read_price_list, read_spot_prices
from cli.adapters.records import Records
from cli.adapters.ssm import Commands
from cli.adapters.stacks import Stacks
from cli.adapters.stream_records import StreamRecords
from cli.adapters.wheelhouse_bucket import WheelhouseBucket
from cli.core.account_facts import NOT_LOOKED_AT
from cli.core.clusters import Stack
from cli.core.github import ISSUER
from cli.core.resource_import import RetainedResource
from cli.core.result import Unavailable
from cli.core.upload_plan import UnfinishedUpload
from cli.errors import CliError
from cli.terminal import Terminal
from cli.wheelhouse import locked_packages
from node_agent.contract.errors import SynktiError
from node_agent.contract.group_size import GroupSize
from node_agent.contract.models import ModelFile
from node_agent.contract.names import (
    client_keys_secret_name,
    cluster_key_secret_name,
    model_project_name,
    node_log_group_name,
    stack_name,
)
from node_agent.contract.table_schema import StreamStatus
from node_agent.core.common.cluster_keys import ClusterKeySet, cluster_key
from stacks.settings import FleetSettings
from tests.aws_calls.agent_calls import CHECKPOINTS, CLUSTER, GROUP, MODEL, MODELS, NODE, TABLE
from tests.aws_calls.drill_calls import call_as_drills
from tests.aws_calls.recording import ROOT, Recorder
from tests.unit.cli.fake_clock import FakeClock
from tests.unit.core.access.keys import document

SETTINGS = FleetSettings(
    **IN_A_VPC,
    github_repository="acme/models",
    hosted_zone_id="Z0123456789ABCDEFGHIJ",
    budget_usd=500,
    budget_scope="cluster",
)
"""What makes doctor read the most."""
FILE = ModelFile("model.safetensors", "a" * 64, 9)
CLOCK = FakeClock().clock


def call_as_operator(recorder: Recorder) -> None:
    """Call everything once."""
    with _environment():
        account = Account(None, REGION)
        with recorder.answering(GetCallerIdentity={"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/ann"}):
            assert account.identity.account == ACCOUNT
        _group(account)
        call_as_drills(recorder, account)
        _models(recorder, account)
        _packages(recorder, account)
        _stacks(recorder, account)
        _doctor(recorder, account)
        _logs(recorder, account)
        _keys(recorder, account)
        _prices(account)
        _builds(account)


@contextmanager
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
        yield


def _group(account: Account) -> None:
    instances = Instances(account.client("ec2"), CLUSTER)
    instances.nodes()
    instances.shut_out(NODE)
    instances.shut_out(NODE, undo=True)
    instances.terminate(NODE)
    instances.request_emulated_end(NODE, shrink=False)
    key = ClusterKeySecret(account.client("secretsmanager"), cluster_key_secret_name(CLUSTER))
    with suppress(CliError):
        key.read()
    key.write(ClusterKeySet(cluster_key(b"a key")))
    group = Group(account.client("autoscaling"), GROUP)
    group.resume_launches()
    group.resize(GroupSize(1, 3, 2))
    group.terminate(NODE, shrink=True)
    group.launch_failures(0.0)
    streams = StreamRecords(account.client("dynamodb"), TABLE)
    streams.open_streams([NODE])
    streams.owned(StreamStatus.ORPHANED)
    Records(account.client("dynamodb"), TABLE).of_nodes()
    read_breaker(account.client("dynamodb"), TABLE, GROUP)


def _models(recorder: Recorder, account: Account) -> None:
    s3 = account.client("s3")
    bucket = ModelsBucket(s3, MODELS)
    bucket.exists()
    with recorder.answering(ListObjectsV2={"Contents": [_entry(f"models/{MODEL}/{FILE.path}")]}):
        bucket.models()
        bucket.objects(MODEL)
    with recorder.answering(ListMultipartUploads={"Uploads": [{"Key": f"models/{MODEL}/a", "UploadId": "u"}]}):
        bucket.unfinished_uploads(MODEL)
    bucket.put(MODEL, FILE, b"weights")
    upload = bucket.begin_upload(MODEL, FILE)
    etag = bucket.put_part(MODEL, FILE.path, upload, 1, b"weights")
    bucket.complete_upload(MODEL, FILE, upload, {1: etag})
    bucket.abort_upload(MODEL, UnfinishedUpload(FILE.path, upload, {}))
    bucket.write_manifest(MODEL, [FILE])
    bucket.remove_manifest(MODEL)
    versions = {"Versions": [{"Key": f"models/{MODEL}/a", "VersionId": "v"}]}
    with recorder.answering(DeleteObjects={}, ListObjectVersions=versions):
        bucket.delete_objects(MODEL, [FILE.path])
        bucket.purge(MODEL)
        buckets.empty(s3, CHECKPOINTS)
    fleet._clusters_with_a_bucket(account)


def _packages(recorder: Recorder, account: Account) -> None:
    (package_set, *_) = locked_packages(ROOT)
    bucket = WheelhouseBucket(account.client("s3"), MODELS)
    with (
        TemporaryDirectory() as name,
        recorder.answering(ListObjectsV2={"Contents": [_entry(package_set.manifest_key)]}),
    ):
        (Path(name) / "uv.whl").write_bytes(b"a wheel")
        assert not bucket.is_complete(package_set)
        bucket.upload(package_set, Path(name), lambda _: None, replace=False)
    doctor_collector._lacking_packages(account, CLUSTER, (package_set,))


def _entry(key: str) -> dict[str, object]:
    return {"Key": key, "Size": 9, "LastModified": datetime(2026, 11, 30, tzinfo=UTC)}


def _stacks(recorder: Recorder, account: Account) -> None:
    stacks, name = Stacks(account.client("cloudformation")), stack_name(CLUSTER, "state")
    template = {"Resources": {"x": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain"}}}
    described = {"StackName": name, "CreationTime": datetime(2026, 11, 30, tzinfo=UTC)}
    with recorder.answering(GetTemplate={"TemplateBody": json.dumps(template)}):
        stacks.retained(name)
    with recorder.answering(DescribeStacks={"Stacks": [{**described, "StackStatus": "DELETE_COMPLETE"}]}):
        stacks.list_stacks()
        stacks.delete(name, within_s=1, every_s=1, clock=CLOCK, report=lambda _: None)
    resource = RetainedResource("AWS::S3::Bucket", "x", MODELS)
    status = {"DescribeChangeSet": {"Status": "CREATE_COMPLETE"}}
    imported = {"DescribeStacks": {"Stacks": [{**described, "StackStatus": "IMPORT_COMPLETE"}]}}
    with recorder.answering(**status, **imported):
        stacks.import_resources(name, template, [resource], every_s=1, clock=CLOCK)
    stacks.failure_reason(name)


def _doctor(recorder: Recorder, account: Account) -> None:
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"
    stack = {
        "StackName": stack_name(CLUSTER, "github"),
        "StackStatus": "CREATE_COMPLETE",
        "CreationTime": datetime(2026, 11, 30, tzinfo=UTC),
    }
    answers: dict[str, Any] = {
        "ListOpenIDConnectProviders": {"OpenIDConnectProviderList": [{"Arn": provider}]},
        "DescribeStacks": {"Stacks": [stack]},
        "GetTemplate": {"TemplateBody": "{}"},
        "DescribeVpcEndpoints": {"VpcEndpoints": []},
        "DescribeSubnets": {"Subnets": []},
        "DescribeRouteTables": {"RouteTables": []},
    }
    with recorder.answering(**answers):
        account_facts.read_facts(account, SETTINGS)
    nowhere = Unavailable("not synthesized")
    doctor_collector.collect(account, CLUSTER, SETTINGS, nowhere, NOT_LOOKED_AT)
    doctor_collector._template_fault(account.client("cloudformation"), "{}")
    for kind in ("AWS::S3::Bucket", "AWS::DynamoDB::Table"):
        doctor_collector.resource_exists(account, kind, TABLE)


def _logs(recorder: Recorder, account: Account) -> None:
    with recorder.answering(GetCommandInvocation={"Status": "Success", "StandardOutputContent": "x"}):
        Commands(account.client("ssm"), CLOCK).run(NODE, "journalctl")
    with suppress(CliError, ClientError, SynktiError):
        logs._events(account.client("logs"), node_log_group_name(CLUSTER), NODE, 0)
    state = Stack(stack_name(CLUSTER, "state"), "CREATE_COMPLETE", CLUSTER, {"CheckpointsBucket": CHECKPOINTS}, 0.0)
    selected = fleet.Fleet(account, CLUSTER, (state,))
    with recorder.answering(ListObjectsV2={"Contents": [_entry(f"end-of-life/{NODE}/a.log")]}):
        logs._last_log(Terminal(as_json=True), selected, NODE, 10)


def _keys(recorder: Recorder, account: Account) -> None:
    name = client_keys_secret_name(CLUSTER)
    documents = SecretKeyDocuments(account.client("secretsmanager"), name)
    current = {"SecretString": document().to_bytes().decode(), "VersionId": "0" * 32}
    with recorder.answering(GetSecretValue=current, DescribeSecret={"ARN": f"{name}-AbCdEf"}):
        documents.edit(lambda keys: (keys, None))
        doctor_collector.secret_arn(account, name)


def _prices(account: Account) -> None:
    read_price_list(account, ["g6.xlarge"])
    read_spot_prices(account, ["g6.xlarge"], datetime(2026, 11, 30, tzinfo=UTC))


def _builds(account: Account) -> None:
    builds = ModelBuilds(account.client("codebuild"), account.client("logs"), model_project_name(CLUSTER))
    build_id = builds.start({"SYNKTI_MODEL_NAME": MODEL})
    builds.new_lines(builds.state(build_id))
