"""What `python -m node_agent.fetch_model` writes for the agent, and its options."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node_agent import fetch_model
from tests.unit.adapters.pushed_model import BUCKET, FILES, failure, held, push, run, s3
from tests.unit.core.sizing.models import LLAMA_3_1_8B, WEIGHTS

__all__ = ["s3"]


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
