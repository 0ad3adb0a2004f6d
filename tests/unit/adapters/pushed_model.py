"""A model in S3 in memory, and what `python -m node_agent.fetch_model` makes of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from node_agent import fetch_model
from node_agent.adapters.model_download import Downloader
from node_agent.adapters.model_folder import ModelFolder
from node_agent.adapters.model_store import ModelStore
from node_agent.contract.models import ModelFile, format_manifest, manifest_key, model_prefix
from node_agent.core.node import model_download_plan

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


def downloader(s3: Any, folder: Path, sleep: Callable[[float], None] = lambda _: None) -> Downloader:
    store = ModelStore(s3, BUCKET)
    return Downloader(store, ModelFolder(folder), "tiny", workers=1, report=lambda _: None, sleep=sleep)


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a failure."""
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err.strip().splitlines()[-1]
