"""`python -m node_agent.fetch_model` against S3 in memory: whole, again, interrupted, damaged, missing."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ResponseStreamingError

from node_agent import fetch_model
from node_agent.adapters import model_download, model_folder
from node_agent.adapters.model_download import TRIES, Downloader
from node_agent.adapters.model_folder import ModelFolder
from node_agent.adapters.model_store import ModelStore
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.models import ModelFile, format_manifest, manifest_digest, manifest_key, model_prefix
from node_agent.core.node import model_download_plan
from tests.unit.core.sizing.models import LLAMA_3_1_8B, WEIGHTS

BUCKET = "synkti-models"
FILES = {"config.json": b"{}", "a/weights.safetensors": os.urandom(5_000), "empty.txt": b""}


@pytest.fixture
def s3(aws: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    monkeypatch.setattr(model_download_plan, "RANGE_BYTES", 1_000)
    return client


def push(s3: Any, name: str = "tiny", files: dict[str, bytes] = FILES) -> list[ModelFile]:
    for path, body in files.items():
        s3.put_object(Bucket=BUCKET, Key=model_prefix(name) + path, Body=body)
    held = [ModelFile(path, hashlib.sha256(body).hexdigest(), len(body)) for path, body in files.items()]
    s3.put_object(Bucket=BUCKET, Key=manifest_key(name), Body=format_manifest(held).encode())
    return held


def run(folder: Path, *options: str) -> int:
    return fetch_model.main(["--bucket", BUCKET, "--name", "tiny", "--to", str(folder), *options])


def held(folder: Path) -> dict[str, bytes]:
    """Everything in the folder but the note of what was compared."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".synkti")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_model_is_downloaded_and_the_plan_printed(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(s3)
    assert run(tmp_path / "m") == 0
    assert held(tmp_path / "m") == FILES
    output = capsys.readouterr()
    assert json.loads(output.out) == {
        "load": "download",
        "model": str(tmp_path / "m"),
        "arguments": [],
        "reason": "model_load=download",
    }
    assert "3 files" in output.err


def test_a_second_run_fetches_nothing(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(s3)
    assert run(tmp_path) == 0

    def never(*_: object) -> None:
        raise AssertionError("nothing has to be read again")

    monkeypatch.setattr(ModelStore, "read", never)
    monkeypatch.setattr(model_folder, "_sha256", never)
    assert run(tmp_path) == 0
    assert "0.00 GiB came" in capsys.readouterr().err


def test_after_a_reboot_every_file_is_compared_and_none_fetched(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(s3)
    assert run(tmp_path) == 0
    compared: list[str] = []
    before = ModelFolder.compare

    def compare(self: ModelFolder, file: Any) -> bool:
        compared.append(file.path)
        return before(self, file)

    monkeypatch.setattr(ModelFolder, "compare", compare)
    monkeypatch.setattr(model_folder, "_boot_id", lambda: "another boot")
    monkeypatch.setattr(ModelStore, "read", lambda *_: pytest.fail("nothing has to be fetched"))
    assert run(tmp_path) == 0
    assert sorted(compared) == sorted(FILES)


def test_a_damaged_file_on_the_disk_is_fetched_again(s3: Any, tmp_path: Path) -> None:
    push(s3)
    assert run(tmp_path) == 0
    path = tmp_path / "a" / "weights.safetensors"
    path.write_bytes(b"x" * len(FILES["a/weights.safetensors"]))
    (tmp_path / "left-over.safetensors").write_bytes(b"of an older model")
    assert run(tmp_path) == 0
    assert held(tmp_path) == FILES


def downloader(s3: Any, folder: Path, sleep: Callable[[float], None] = lambda _: None) -> Downloader:
    store = ModelStore(s3, BUCKET)
    return Downloader(store, ModelFolder(folder), "tiny", workers=1, report=lambda _: None, sleep=sleep)


def test_an_interrupted_download_continues_at_its_last_byte(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = push(s3, files={"w.safetensors": os.urandom(5_000)})
    read = ModelStore.read
    starts: list[int] = []

    def breaks(self: ModelStore, name: str, path: str, start: int, end: int, take: Any) -> None:
        starts.append(start)
        if start >= 3_000:
            take(b"half of it")
            raise StoreUnavailable("the network is gone")
        read(self, name, path, start, end, take)

    monkeypatch.setattr(ModelStore, "read", breaks)
    with pytest.raises(StoreUnavailable, match="the network is gone"):
        downloader(s3, tmp_path).fetch(manifest)
    assert starts[: 3 + TRIES] == [0, 1_000, 2_000] + [3_000] * TRIES
    monkeypatch.setattr(ModelStore, "read", read)
    again = downloader(s3, tmp_path)
    again.fetch(manifest)
    assert again.fetched == 2_000
    assert set(held(tmp_path)) == {"w.safetensors"}


def test_partial_files_of_another_model_are_not_used(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = push(s3, files={"w.safetensors": os.urandom(5_000)})
    read = ModelStore.read
    monkeypatch.setattr(model_download, "TRIES", 1)

    def breaks(self: ModelStore, name: str, path: str, start: int, end: int, take: Any) -> None:
        if start >= 3_000:
            raise StoreUnavailable("the network is gone")
        read(self, name, path, start, end, take)

    monkeypatch.setattr(ModelStore, "read", breaks)
    with pytest.raises(StoreUnavailable):
        downloader(s3, tmp_path).fetch(old)
    monkeypatch.setattr(ModelStore, "read", read)
    files = {"w.safetensors": os.urandom(5_000)}
    new = downloader(s3, tmp_path)
    new.fetch(push(s3, files=files))
    assert new.fetched == 5_000
    assert held(tmp_path) == files


def test_a_broken_answer_is_retried_with_growing_delays(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = push(s3, files={"w.safetensors": os.urandom(900)})
    slept: list[float] = []
    read, failures = ModelStore.read, iter((True, True, False))

    def breaks(self: ModelStore, name: str, path: str, start: int, end: int, take: Any) -> None:
        if next(failures):
            with self._errors("here"):
                raise ResponseStreamingError(error="cut")
        read(self, name, path, start, end, take)

    monkeypatch.setattr(ModelStore, "read", breaks)
    downloader(s3, tmp_path, slept.append).fetch(manifest)
    assert slept == [0.5, 1.0]


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a failure."""
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err.strip().splitlines()[-1]


def test_a_missing_model_is_one_line_and_66(s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 66
    assert failure(capsys).startswith("model tiny: s3://synkti-models/models/tiny/manifest.sha256 is not there; push")


def test_a_missing_bucket_is_one_line_and_66(s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--bucket", "another-bucket") == 66
    assert "the bucket another-bucket is not there" in failure(capsys)


def test_a_missing_file_is_66(s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(s3)
    s3.delete_object(Bucket=BUCKET, Key="models/tiny/config.json")
    assert run(tmp_path) == 66
    assert "models/tiny/config.json is not there" in failure(capsys)


def test_a_damaged_object_is_fetched_twice_and_then_65(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(s3)
    s3.put_object(Bucket=BUCKET, Key="models/tiny/config.json", Body=b"[]")
    assert run(tmp_path) == 65
    assert failure(capsys).endswith("models/tiny/config.json is not what its manifest says; push the model again")
    assert "config.json" not in held(tmp_path), "what is wrong is not left for the engine"


@pytest.mark.parametrize("body", [b"", b"\xff", b"not a manifest"])
def test_a_damaged_manifest_is_65(body: bytes, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(s3)
    s3.put_object(Bucket=BUCKET, Key=manifest_key("tiny"), Body=body)
    assert run(tmp_path) == 65
    assert "manifest.sha256 cannot be read" in failure(capsys)


def test_another_manifest_than_the_deployed_one_is_65(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = push(s3)
    assert run(tmp_path, "--manifest-sha256", manifest_digest(format_manifest(manifest))) == 0
    capsys.readouterr()
    assert run(tmp_path, "--manifest-sha256", "0" * 64) == 65
    assert "was deployed" in failure(capsys)


def test_a_full_disk_is_73(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(s3)
    monkeypatch.setattr(ModelFolder, "free_bytes", lambda self: 10)
    assert run(tmp_path) == 73
    assert "2.00 GiB are needed" in failure(capsys)


def test_an_s3_that_does_not_answer_is_69(
    aws: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch_model, "s3_client", lambda region, connections: _Refusing())
    assert run(tmp_path) == 69
    assert "S3 refuses (AccessDenied)" in failure(capsys)


class _Refusing:
    """An S3 that refuses to read, as it does for an object that does not exist. listed: keys; None: refused, too."""

    def __init__(self, listed: list[str] | None = None) -> None:
        self._listed = listed

    def get_object(self, **_: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")

    def list_objects_v2(self, Bucket: str, Prefix: str, MaxKeys: int) -> dict[str, Any]:
        if self._listed is None:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")
        found = [{"Key": key} for key in self._listed if key.startswith(Prefix)]
        return {"Contents": found[:MaxKeys]} if found else {}


@pytest.mark.parametrize(
    ("listed", "code", "message"),
    [
        ([], 66, "is not there; push the model"),
        ([manifest_key("tiny") + ".old"], 66, "is not there; push the model"),
        ([manifest_key("tiny")], 69, "S3 refuses (AccessDenied)"),
    ],
)
def test_a_refused_object_that_is_not_listed_is_a_missing_model(
    listed: list[str],
    code: int,
    message: str,
    aws: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A node may list its model's prefix only, and S3 answers 403 for a missing object to a role like that."""
    monkeypatch.setattr(fetch_model, "s3_client", lambda region, connections: _Refusing(listed))
    assert run(tmp_path) == code
    assert message in failure(capsys)


def test_a_streamed_model_is_only_verified(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(s3)
    monkeypatch.setattr(fetch_model, "count_gpus", lambda: 1)
    assert run(tmp_path / "m", "--load", "stream") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["model"] == "s3://synkti-models/models/tiny"
    assert not (tmp_path / "m").exists()
    s3.put_object(Bucket=BUCKET, Key="models/tiny/config.json", Body=b"[1]")
    assert run(tmp_path / "m", "--load", "stream") == 65
    assert "has 3 bytes, not 2" in failure(capsys)
    s3.delete_object(Bucket=BUCKET, Key="models/tiny/config.json")
    assert run(tmp_path / "m", "--load", "stream") == 66


def test_without_a_gpu_a_streamed_model_is_downloaded_and_the_reason_printed(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(s3)
    monkeypatch.setattr(fetch_model, "count_gpus", lambda: 0)
    assert run(tmp_path, "--load", "stream") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["load"] == "download"
    assert "downloaded: streaming needs a GPU" in output.err
    assert held(tmp_path) == FILES


def test_the_models_folder_is_written_for_the_agent(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(s3)
    output = tmp_path / "model.env"
    environ = {
        "SYNKTI_MODELS_BUCKET": BUCKET,
        "SYNKTI_MODEL_NAME": "tiny",
        "SYNKTI_MODEL_LOAD": "stream",
        "SYNKTI_ENGINE_ARGS": '["--max-model-len", "8192"]',
    }
    where = ["--to", str(tmp_path / "m"), "--environ", str(output)]
    for gpus, model, arguments in (
        (
            1,
            "s3://synkti-models/models/tiny",
            '["--load-format", "runai_streamer", "--model-loader-extra-config", "{\\"memory_limit\\": 4294967296}", '
            '"--max-model-len", "8192"]',
        ),
        (0, str(tmp_path / "m"), '["--max-model-len", "8192"]'),
    ):
        monkeypatch.setattr(fetch_model, "count_gpus", lambda gpus=gpus: gpus)
        monkeypatch.setattr(fetch_model, "memory_bytes", lambda: 16 * 2**30)
        assert fetch_model.main(where, environ) == 0
        assert output.read_text() == f"SYNKTI_MODEL_DIR={model}\nSYNKTI_ENGINE_ARGS='{arguments}'\n"


LLAMA = {"config.json": json.dumps(LLAMA_3_1_8B).encode(), "model.safetensors": b"w" * 100}
INDEX = {
    "metadata": {"total_size": WEIGHTS["llama"]},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "elsewhere.safetensors"},
}
"""Of shards that are not in the bucket: their announced size counts."""

SHARDED = {
    "config.json": LLAMA["config.json"],
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "model-00001-of-00002.safetensors": b"w",
}


@pytest.mark.parametrize(
    ("files", "types", "given", "gpus", "arguments", "why"),
    [
        (SHARDED, "g6e.xlarge,g6.xlarge", [], 1, ["--max-model-len", "24576"], "has the context of g6.xlarge"),
        (
            SHARDED, "g6e.xlarge,g5.12xlarge", [], 4,
            ["--max-model-len", "131072", "--tensor-parallel-size", "4"], "the context of g6e.xlarge: 44.0 GiB",
        ),
        (SHARDED, "g6.xlarge,g99.xlarge", [], 1, ["--max-model-len", "auto"], "the GPUs of g99.xlarge are not known"),
        (SHARDED, "g6.xlarge", ["--max-model-len=4k"], 1, ["--max-model-len=4k"], "a context of 4,000 tokens"),
        (SHARDED, "g6.xlarge", [], 0, [], ""),
        (LLAMA, "g6.xlarge", [], 1, ["--max-model-len", "auto"], "it is not the config.json of these weights"),
        (SHARDED | {"config.json": b"{"}, "g6.xlarge", [], 1, ["--max-model-len", "auto"], "config.json is no JSON"),
        (SHARDED | {"config.json": b""}, "g6.xlarge", [], 1, ["--max-model-len", "auto"], "config.json is no JSON"),
        ({"w.gguf": b"w"}, "g6.xlarge", [], 1, ["--max-model-len", "auto"], "the model has no config.json"),
    ],
)  # fmt: skip
def test_the_engine_gets_the_context_of_the_fleets_smallest_type(
    files: dict[str, bytes], types: str, given: list[str], gpus: int, arguments: list[str], why: str,
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    push(s3, files=files)
    monkeypatch.setattr(fetch_model, "count_gpus", lambda: gpus)
    output = tmp_path / "model.env"
    options = ["--environ", str(output), "--instance-types", types, "--engine-args", json.dumps(given)]
    assert run(tmp_path / "m", *options) == 0
    assert output.read_text().splitlines()[1] == f"SYNKTI_ENGINE_ARGS={shlex.quote(json.dumps(arguments))}"
    assert why in capsys.readouterr().err


def test_values_that_the_environment_lacks_are_required_arguments(tmp_path: Path) -> None:
    for environ in ({}, {"SYNKTI_MODELS_BUCKET": BUCKET}, {"SYNKTI_MODEL_NAME": "tiny"}):
        with pytest.raises(SystemExit) as ended:
            fetch_model.main(["--to", str(tmp_path)], environ)
        assert ended.value.code == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--engine-args", "x"),
        ("--engine-args", "[1]"),
        ("--name", "../etc"),
        ("--workers", "0"),
        ("--workers", "65"),
        ("--load", "x"),
    ],
)
def test_bad_usage_is_2(options: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, *options)
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_the_download_imports_nothing_but_boto3_and_the_standard_library() -> None:
    seen = "import sys, node_agent.fetch_model; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    foreign = {"orjson", "uvicorn", "httptools", "uvloop", "prometheus_client"}
    assert not foreign & set(done.stdout.split())
