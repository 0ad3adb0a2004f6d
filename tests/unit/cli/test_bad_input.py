"""Bad input and bad luck: a clear error with what to do, and nothing half made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cli import bootstrap
from cli.account import Account
from cli.adapters import models_bucket
from cli.adapters.cdk import Cdk
from cli.core import cdk_output
from cli.core.clusters import Stack, busy_stacks
from cli.errors import CliError, Failed, NoAccess
from tests.unit.cli.conftest import DeployedFleet, Run
from tests.unit.cli.memory_cdk import BUCKET, MemoryCdk, cdk, model
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.core.sizing.models import LLAMA_3_1_8B

__all__ = ["cdk", "model"]


def objects() -> list[str]:
    return [each["Key"] for each in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


# --- a model --------------------------------------------------------------------------------------------------------

CUSTOM = {"model_type": "mine", "architectures": ["Mine"], "auto_map": {"AutoModel": "mine.Model"}}
LIES = {key: value for key, value in LLAMA_3_1_8B.items() if key != "num_hidden_layers"}
BAD_CONFIGS = [
    ({}, "config.json lacks model_type", "download the model again"),
    (LIES, "num_hidden_layers", "download the model again"),
    (LLAMA_3_1_8B | {"num_attention_heads": "many"}, "num_attention_heads", "download the model again"),
    (LLAMA_3_1_8B, "describes 8.0 billion parameters", "download the model again"),
    (CUSTOM, "auto_map", "--trust-remote-code"),
]
"""The weights are a few hundred bytes, so that the config of Llama is that of another model."""


@pytest.mark.parametrize(("config", "fault", "advice"), BAD_CONFIGS)
def test_a_config_that_lies_or_lacks_stops_a_deployment_before_anything_is_made(
    config: dict[str, Any], fault: str, advice: str, cdk: type[MemoryCdk], model: Path, run: Run
) -> None:
    (model / "config.json").write_text(json.dumps(config))
    done = run("bootstrap", "--model", model, "--yes")
    assert (done.code, fault in done.out, advice in done.out) == (3, True, True), done
    assert (cdk.ran, cdk.cloudformation.stacks) == ([], {})


@pytest.mark.parametrize(("config", "fault", "advice"), BAD_CONFIGS)
def test_a_config_that_lies_or_lacks_is_not_pushed(
    config: dict[str, Any], fault: str, advice: str, bucket: str, model: Path, run: Run
) -> None:
    (model / "config.json").write_text(json.dumps(config))
    done = run("model", "push", model, "--name", "model")
    assert (done.code, fault in done.err, advice in done.err) == (1, True, True), done
    assert objects() == []


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"model_type": 7}', "\ud800", "[" * 100_000])
def test_a_config_that_is_no_document_is_named(text: str, bucket: str, model: Path, run: Run) -> None:
    (model / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    done = run("model", "push", model, "--name", "model")
    assert (done.code, "config.json" in done.err) == (1, True), done
    assert objects() == []


# --- a type ---------------------------------------------------------------------------------------------------------


def test_a_type_that_does_not_exist_stops_a_deployment_before_anything_is_made(
    cdk: type[MemoryCdk], model: Path, run: Run
) -> None:
    done = run("bootstrap", "--model", model, "--yes", "-c", "instance_types=g6.xlarge,g99.xlarge")
    assert done.code == 3
    assert "g99.xlarge" in done.out
    assert 'instance_types = ["g6.xlarge"]' in done.out, "the line to set"
    assert (cdk.ran, cdk.cloudformation.stacks) == ([], {})


# --- a bucket -------------------------------------------------------------------------------------------------------


def foreign_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 as it answers for another account's bucket."""
    real = Account._client

    def client(self: Account, service: str, connections: int = 10) -> Any:
        made = real(self, service, connections)
        if service == "s3":
            made.head_bucket = refuse("403", "HeadBucket")
        return made

    monkeypatch.setattr(Account, "_client", client)


def refuse(code: str, operation: str) -> Callable[..., Any]:
    body: Any = {"Error": {"Code": code, "Message": "Forbidden"}}

    def request(**given: Any) -> Any:
        raise ClientError(body, operation)

    return request


def test_a_bucket_of_another_account_stops_a_deployment_before_anything_is_made(
    cdk: type[MemoryCdk], model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_bucket(monkeypatch)
    done = run("bootstrap", "--model", model, "--yes")
    assert (done.code, f"the bucket {BUCKET} belongs to another account" in done.err) == (6, True)
    assert "choose another cluster name" in done.err
    assert (cdk.ran, cdk.cloudformation.stacks) == ([], {})


def test_a_model_is_not_pushed_into_a_bucket_of_another_account(
    bucket: str, model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign_bucket(monkeypatch)
    done = run("model", "push", model, "--name", "model")
    assert (done.code, "belongs to another account" in done.err) == (6, True)
    assert objects() == []


def test_the_expected_owner_of_a_bucket_is_sent_to_s3() -> None:
    sent: list[dict[str, str]] = []

    class Client:
        def head_bucket(self, **given: str) -> None:
            sent.append(given)

    assert models_bucket.ModelsBucket(Client(), "b", owner="123456789012").exists()
    assert models_bucket.ModelsBucket(Client(), "b").exists()
    assert sent == [{"Bucket": "b", "ExpectedBucketOwner": "123456789012"}, {"Bucket": "b"}]


# --- two deployments ------------------------------------------------------------------------------------------------


def stack(name: str, status: str) -> Stack:
    return Stack(name, status, "synkti", {}, 0.0)


def test_a_stack_is_busy_while_cloudformation_changes_it() -> None:
    busy = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "DELETE_IN_PROGRESS")
    idle = ("CREATE_COMPLETE", "ROLLBACK_FAILED", "REVIEW_IN_PROGRESS")
    assert busy_stacks(stack(each, each) for each in (*busy, *idle)) == busy


@pytest.mark.parametrize("command", [("bootstrap", "--yes"), ("destroy", "--yes")])
def test_a_second_deployment_is_refused_while_one_is_under_way(
    command: Sequence[str], cdk: type[MemoryCdk], fleet: DeployedFleet, aws: MemoryCloudFormation, run: Run
) -> None:
    aws.stacks["synkti-fleet"].status = "UPDATE_IN_PROGRESS"
    done = run(*command)
    assert (done.code, "under way: synkti-fleet" in done.err) == (1, True), done
    assert "nothing was changed" in done.err
    assert (cdk.ran, aws.deleted) == ([], [])
    aws.stacks["synkti-fleet"].status = "REVIEW_IN_PROGRESS"
    assert "under way" not in run(*command, "--profile", "x").err


def failure(excerpt: str, tmp_path: Path) -> CliError:
    cdk = Cdk.__new__(Cdk)
    cdk._log = tmp_path / "log"
    return cdk._failure("deploy", excerpt)


@pytest.mark.parametrize(
    "words",
    [
        "❌ synkti-fleet failed: ValidationError: Stack:arn is in UPDATE_IN_PROGRESS state and can not be updated.",
        "An operation is already in progress on the stack synkti-state",
        "OperationInProgressException: Another operation is in progress",
        "ChangeSet cannot be executed in status CREATE_IN_PROGRESS",
    ],
)
def test_a_deployment_that_began_at_the_same_moment_is_recognized(words: str, tmp_path: Path) -> None:
    found = failure(words, tmp_path)
    assert isinstance(found, Failed)
    assert "another operation on a stack is under way" in found.message
    assert "run the command again" in found.advice


# --- credentials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "ExpiredToken: The security token included in the request is expired",
        "Error: The provided token has expired.",
        "RequestExpired: Request has expired.",
    ],
)
def test_credentials_that_expire_during_the_cdks_work_are_recognized(words: str, tmp_path: Path) -> None:
    found = failure(words, tmp_path)
    assert isinstance(found, NoAccess)
    assert "aws sso login" in found.advice
    assert "continues where it stopped" in found.advice


def test_other_failures_of_the_cdk_keep_their_words(tmp_path: Path) -> None:
    found = failure("❌ synkti-fleet failed: no such vpc", tmp_path)
    assert (found.message, str(tmp_path / "log") in found.advice) == (
        "cdk deploy failed:\n❌ synkti-fleet failed: no such vpc",
        True,
    )
    assert not cdk_output.is_busy("")
    assert not cdk_output.is_expired("")


def test_credentials_that_expire_midway_stop_a_deployment_which_continues_later(
    cdk: type[MemoryCdk], model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They expire after the state stack is deployed, while the model is uploaded."""
    real = Account._client
    expired = True

    def client(self: Account, service: str, connections: int = 10) -> Any:
        made = real(self, service, connections)
        if service == "s3":
            put = made.put_object

            def put_object(**given: Any) -> Any:
                return refuse("ExpiredToken", "PutObject")() if expired else put(**given)

            made.put_object = put_object
        return made

    monkeypatch.setattr(Account, "_client", client)
    done = run("bootstrap", "--model", model, "--yes")
    assert (done.code, "any more (ExpiredToken)" in done.err) == (6, True), done
    assert "continues where it stopped" in done.err
    assert cdk.ran == ["synth", "bootstrap 123456789012/us-east-1", "deploy synkti-state"]
    assert "synkti-fleet" not in cdk.cloudformation.stacks, "no node is started without its model"
    expired = False
    cdk.ran.clear()
    assert run("bootstrap", "--model", model, "--yes").code == 0
    assert cdk.ran == ["synth", "synth", "deploy everything"], "what was done is not repeated"


def test_a_failed_deployment_is_reported_although_its_reasons_cannot_be_read(
    cdk: type[MemoryCdk], model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cdk.fails = "everything"

    def unreadable(self: Any) -> list[str]:
        refuse("ExpiredToken", "DescribeStackEvents")()
        return []

    monkeypatch.setattr(bootstrap._Bootstrap, "_failure_reasons", unreadable)
    done = run("bootstrap", "--model", model, "--yes")
    assert (done.code, "❌ synkti-fleet" in done.err) == (1, True)
