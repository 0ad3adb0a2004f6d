"""The job that copies a model from a hub into the models bucket: against a hub over HTTP, and S3 in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from cli import hub_copy, hub_job
from cli.adapters.hub import Hub, HubRefused
from cli.adapters.models_bucket import ModelsBucket
from cli.core import hub as core
from cli.core.upload_plan import MIB
from cli.errors import CliError, Failed, NotFound
from cli.hub_copy import Copied, CopyOptions, in_order
from cli.hub_job import HubJob, main, run_job
from node_agent.contract.hub import HubName, parse_hub_name
from tests.unit.cli import weights
from tests.unit.cli.conftest import Run
from tests.unit.cli.stand_in_hub import COMMIT, OTHER_COMMIT, StandInHub, stand_in_hub
from tests.unit.cli.test_model import held, written
from tests.unit.core.sizing.models import LLAMA_3_1_70B

FILES = {**weights.model("a.safetensors", "b.safetensors"), ".gitattributes": b"*.safetensors filter=lfs\n"}
NAME = "acme/tiny"


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with stand_in_hub() as hub:
        hub.add(NAME, FILES)
        yield hub


def job(bucket: str, source: str = NAME, **more: Any) -> HubJob:
    return HubJob(bucket, "tiny", parse_hub_name(source), **more)


def copy(job: HubJob, hub: StandInHub, token: str = "") -> Copied:
    session = boto3.session.Session()
    there = Hub(hub.address, token) if token else hub_job.hub_of_job(job, session, {"HF_ENDPOINT": hub.address})
    return run_job(job, session, there, lambda line: None)


def test_a_copy_is_what_a_push_of_the_same_files_is(bucket: str, hub: StandInHub, tmp_path: Path, run: Run) -> None:
    copied = copy(job(bucket), hub)
    there = held(bucket)
    pushed = run("model", "push", written(tmp_path / "pushed", FILES), "--json").document
    assert copied.digest == pushed["manifest_sha256"]
    again = held(bucket)
    assert there["models/tiny/manifest.sha256"] == again["models/pushed/manifest.sha256"]
    assert {key for key in there if "gitattributes" in key} == set(), "hidden files are in neither"
    assert copied.files == pushed["files"] == 5
    assert run("model", "push", written(tmp_path / "tiny", FILES), "--json").document["changed"] is False


def test_an_interrupted_copy_continues_with_the_files_that_are_missing(
    bucket: str, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ModelsBucket.put

    def breaks(self: ModelsBucket, name: str, file: Any, body: bytes) -> None:
        if file.path == "b.safetensors":
            raise Failed("the network is gone")
        put(self, name, file, body)

    monkeypatch.setattr(ModelsBucket, "put", breaks)
    with pytest.raises(Failed, match="network"):
        copy(job(bucket), hub)
    assert "models/tiny/manifest.sha256" not in held(bucket), "what is not whole has no manifest"
    monkeypatch.setattr(ModelsBucket, "put", put)
    hub.requests.clear()
    assert copy(job(bucket), hub).sent_bytes < sum(map(len, FILES.values()))
    assert not [path for where, path, _ in hub.requests if where == "store" and path.endswith("a.safetensors")]


@pytest.fixture
def large(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Weights that are copied in three ranges."""
    monkeypatch.setattr(hub_copy, "RANGE_BYTES", 5 * MIB)
    body = weights.safetensors(size=11 * MIB)
    hub.add(NAME, {**weights.model(), "model.safetensors": body})
    return body


def test_large_files_are_copied_in_ranges(bucket: str, hub: StandInHub, large: bytes) -> None:
    copy(job(bucket), hub)
    assert held(bucket)["models/tiny/model.safetensors"] == large
    assert len([path for where, path, _ in hub.requests if where == "store"]) == 3


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_file_with_another_hash_than_the_hub_states_never_becomes_an_object(
    path: str, bucket: str, hub: StandInHub, large: bytes
) -> None:
    hub.damaged = frozenset({path})
    with pytest.raises(Failed, match=f"{path} is not what the hub states"):
        copy(job(bucket), hub)
    assert not {f"models/tiny/{path}", "models/tiny/manifest.sha256"} & set(held(bucket))
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)


def test_what_the_hub_fails_to_give_is_asked_for_again(
    bucket: str, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Hub.__init__, "__defaults__", ("", waits.append))
    hub.broken = [503, 429]
    copy(job(bucket), hub)
    assert sorted(waits) in ([1.0, 1.0], [1.0, 2.0])
    hub.broken = [500] * 100
    with pytest.raises(Failed, match="status 500"):
        copy(job(bucket, options=CopyOptions(replace=True)), replaced(hub))


def replaced(hub: StandInHub) -> StandInHub:
    hub.add(NAME, {**FILES, "a.safetensors": weights.safetensors("a.safetensors.1", "a.safetensors.2", size=500)})
    return hub


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(bucket: str, hub: StandInHub) -> None:
    hub.repositories[NAME].gated, hub.repositories[NAME].allowed = True, frozenset({"hf_good"})
    boto3.client("secretsmanager").create_secret(Name="hub-token", SecretString="hf_good\n")
    copy(job(bucket, token_secret="hub-token"), hub)
    assert (hub.tokens("hub"), hub.tokens("store")) == ({"hf_good"}, {""})


@pytest.mark.parametrize(
    ("token", "how", "message", "advice"),
    [
        ("", {"gated": True}, "only to accounts that have accepted its terms", "hub_token_secret"),
        ("hf_other", {"gated": True}, "the token's account has no access", "accept its terms at"),
        ("", {"private": True}, "has no acme/tiny, or it is private", "create-secret"),
        ("hf_other", {"private": True}, "or the token may not read it", "still valid"),
        ("hf\nother", {}, "it has line ends", "hf_"),
    ],
)
def test_a_model_that_needs_a_token_is_explained(
    token: str, how: dict[str, bool], message: str, advice: str, bucket: str, hub: StandInHub
) -> None:
    hub.add(NAME, FILES, **how)
    with pytest.raises(CliError, match=message) as refused:
        copy(job(bucket), hub, token)
    assert advice in refused.value.advice
    assert isinstance(refused.value, HubRefused) == bool(how)
    assert held(bucket) == {}


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("acme/tiny@v9", NotFound, "has no revision v9"),
        ("acme/nothing", HubRefused, "has no acme/nothing"),
        ("acme/half", NotFound, "b.safetensors"),
        ("acme/text", NotFound, "is no model"),
    ],
)
def test_what_is_no_whole_model_is_not_copied(
    source: str, error: type[CliError], message: str, bucket: str, hub: StandInHub
) -> None:
    hub.add("acme/half", {path: body for path, body in FILES.items() if path != "b.safetensors"})
    hub.add("acme/text", {"README.md": b"# text"})
    with pytest.raises(error, match=message):
        copy(job(bucket, source), hub)
    assert held(bucket) == {}


def test_a_missing_secret_says_how_to_create_it(bucket: str, hub: StandInHub) -> None:
    with pytest.raises(Failed, match="'nothing'") as refused:
        copy(job(bucket, token_secret="nothing"), hub)
    assert "aws secretsmanager create-secret --name nothing" in refused.value.advice


def test_a_model_that_no_type_holds_is_refused_before_it_is_copied(bucket: str, hub: StandInHub) -> None:
    hub.add(NAME, {**weights.model(), "config.json": json.dumps(LLAMA_3_1_70B).encode()})
    hub.claimed = {"model.safetensors": 141_107_412_992}
    too_small = job(bucket, instance_types=("g6.xlarge",))
    with pytest.raises(Failed, match="no type of instance_types can run"):
        copy(too_small, hub)
    assert held(bucket) == {}
    hub.claimed.clear()
    copy(replace(too_small, options=CopyOptions(unchecked=True)), hub)


def test_a_revision_is_the_commit_that_it_is_then(bucket: str, hub: StandInHub) -> None:
    repository = hub.repositories[NAME]
    repository.commits[OTHER_COMMIT] = {**FILES, "tokenizer.json": b'{"v": 2}'}
    assert copy(job(bucket), hub).origin == f"{NAME}@{COMMIT}"
    repository.branches["main"] = OTHER_COMMIT
    # Without a revision, a copy of this repository stays what it is: a branch that moves changes no fleet.
    assert copy(job(bucket), hub).origin == f"{NAME}@{COMMIT}"
    with pytest.raises(Failed, match="with other content"):
        copy(job(bucket, f"{NAME}@main"), hub)
    changed = copy(job(bucket, f"{NAME}@{OTHER_COMMIT}", options=CopyOptions(replace=True)), hub)
    assert changed.origin == f"{NAME}@{OTHER_COMMIT}"
    assert held(bucket)["models/tiny/tokenizer.json"] == b'{"v": 2}'


def test_a_pushed_model_of_other_content_is_not_replaced(
    bucket: str, hub: StandInHub, tmp_path: Path, run: Run
) -> None:
    assert run("model", "push", written(tmp_path / "tiny", weights.model())).code == 0
    with pytest.raises(Failed, match="with other content"):
        copy(job(bucket), hub)
    assert held(bucket)["models/tiny/model.safetensors"] == weights.model()["model.safetensors"]


def test_a_copy_stops_in_time(bucket: str, hub: StandInHub, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="more are missing") as stopped:
        copy(job(bucket, within_s=0.0), hub)
    assert "continues" in stopped.value.advice


# --- the module that the build runs -----------------------------------------------------------------------------------


@pytest.fixture
def responses() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL to which CloudFormation wants a response, and what it has got."""
    found: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/signed?by=cloudformation", found
    server.shutdown()
    server.server_close()


def environ(bucket: str, hub: StandInHub, url: str = "", source: str = NAME) -> dict[str, str]:
    failed = {"Status": "FAILED", "Reason": "it ended early", "RequestId": "r1", "PhysicalResourceId": "models/tiny"}
    return {
        "SYNKTI_MODELS_BUCKET": bucket,
        "SYNKTI_MODEL_NAME": "tiny",
        "SYNKTI_MODEL_SOURCE": source,
        "SYNKTI_RESPONSE_URL": url,
        "SYNKTI_RESPONSE_FAILED": json.dumps(failed),
        "HF_ENDPOINT": hub.address,
    }


def test_cloudformation_gets_the_result(
    bucket: str, hub: StandInHub, responses: tuple[str, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, got = responses
    assert main(environ(bucket, hub, url)) == 0
    assert json.loads(capsys.readouterr().out)["copied"]["origin"] == f"{NAME}@{COMMIT}"
    hub.repositories[NAME].private = True
    assert main(environ(bucket, hub, url)) == 6
    assert [(each["Status"], each["RequestId"], each["PhysicalResourceId"]) for each in got] == [
        ("SUCCESS", "r1", "models/tiny"),
        ("FAILED", "r1", "models/tiny"),
    ]
    assert "or it is private; compare the name" in got[1]["Reason"]
    assert Path("answered").read_text() == "FAILED"


@pytest.mark.parametrize(
    "wrong",
    [
        {"SYNKTI_MODEL_SOURCE": "../etc"},
        {"SYNKTI_MODEL_SOURCE": ""},
        {"SYNKTI_ENGINE_ARGS": "["},
        {"SYNKTI_HUB_WITHIN_S": "soon"},
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
    ],
)
def test_wrong_variables_and_a_hub_that_is_away_are_one_line(
    wrong: dict[str, str], bucket: str, hub: StandInHub, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Hub.__init__, "__defaults__", ("", lambda seconds: None))
    assert main(environ(bucket, hub) | wrong) in (1, 78)
    assert json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_cloudformation_that_is_away_fails_the_build(
    bucket: str, hub: StandInHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(environ(bucket, hub, "http://127.0.0.1:9/gone")) == 1
    assert "waits for an hour" in capsys.readouterr().err


# --- pure -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", HubName("meta-llama/Llama-3.1-8B")),
        ("gpt2", HubName("gpt2")),
        ("a/b@refs/pr/1", HubName("a/b", "refs/pr/1")),
        (f"a/b@{COMMIT}", HubName("a/b", COMMIT)),
    ],
)
def test_a_name_on_the_hub_is_parsed(text: str, expected: HubName) -> None:
    assert parse_hub_name(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", "./a", "a/b/c", "a/b@", "a/b@../c", "a b", "https://hub/a/b", "a/b@x y", "@v1"])
def test_what_is_no_name_on_the_hub_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="owner/name"):
        parse_hub_name(text)


GOOD = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": "a", "size": 1, "blobId": "b"}]}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        GOOD | {"sha": "main"},
        GOOD | {"siblings": [{"rfilename": "a"}]},
        GOOD | {"siblings": [{"rfilename": "a", "size": "1", "blobId": "b"}]},
        GOOD | {"siblings": [{"rfilename": "a", "size": -1, "blobId": "b"}]},
        GOOD | {"siblings": [{}] * 10_001},
    ],
)
def test_a_list_that_cannot_be_used_is_refused(document: Any) -> None:
    assert core.parse_model(GOOD).files == (core.HubFile("a", 1, None, "b"),)
    with pytest.raises(ValueError, match=r"it "):
        core.parse_model(document)


def test_results_come_in_order_and_few_are_worked_on_at_once() -> None:
    active: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            active.append(number)
            most.append(len(active))
        with lock:
            active.remove(number)
        return number

    assert list(in_order(work, range(50), 4)) == list(range(50))
    assert max(most) <= 4
