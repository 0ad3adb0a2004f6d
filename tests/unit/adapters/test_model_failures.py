"""`python -m node_agent.fetch_model` where a model is missing, damaged or refused: one line, and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from node_agent import fetch_model
from node_agent.adapters.model_folder import ModelFolder
from node_agent.contract.models import format_manifest, manifest_digest, manifest_key
from tests.unit.adapters.pushed_model import BUCKET, failure, held, push, run, s3

__all__ = ["s3"]


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
