"""A node's model from S3: whole, verified, and clear about what is wrong where it is not."""

from __future__ import annotations

import hashlib
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from node_agent.adapters.model_store import ModelDamaged, ModelMissing, ModelStore
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.models import ModelFile, format_manifest, manifest_digest
from node_agent.fetch import main

BUCKET = "synkti-models"
CONTENT = {"config.json": b"{}", "model-1.safetensors": b"w" * 100_000, "deep/er/merges.txt": b"a b\n", "empty": b""}


def described(content: dict[str, bytes]) -> list[ModelFile]:
    return [ModelFile(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in content.items()]


MANIFEST = format_manifest(described(CONTENT))


@pytest.fixture
def s3(aws: None) -> Any:
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    for path, data in CONTENT.items():
        client.put_object(Bucket=BUCKET, Key=f"models/tiny/{path}", Body=data)
    client.put_object(Bucket=BUCKET, Key="models/tiny/manifest.sha256", Body=MANIFEST.encode())
    return client


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_comes_whole_and_a_second_time_not_at_all(s3: Any, tmp_path: Path) -> None:
    store = ModelStore(s3, BUCKET)
    files = store.manifest("tiny", manifest_digest(MANIFEST))
    store.check("tiny", files)
    assert store.fetch("tiny", files, tmp_path) == sum(map(len, CONTENT.values()))
    assert held(tmp_path) == CONTENT
    assert store.fetch("tiny", files, tmp_path) == 0


def test_what_is_on_the_disk_is_not_believed(s3: Any, tmp_path: Path) -> None:
    store = ModelStore(s3, BUCKET)
    files = store.manifest("tiny")
    store.fetch("tiny", files, tmp_path)
    (tmp_path / "model-1.safetensors").write_bytes(b"x" * 100_000)
    (tmp_path / "left-over.bin").write_bytes(b"of an older version")
    assert store.fetch("tiny", files, tmp_path) == 100_000
    assert held(tmp_path) == CONTENT


def test_damage_in_the_bucket_is_named_and_nothing_damaged_stays(s3: Any, tmp_path: Path) -> None:
    store = ModelStore(s3, BUCKET)
    files = store.manifest("tiny")
    s3.put_object(Bucket=BUCKET, Key="models/tiny/model-1.safetensors", Body=b"x" * 100_000)
    store.check("tiny", files)  # the size is right
    with pytest.raises(ModelDamaged, match=r"model-1\.safetensors is not what the manifest says"):
        store.fetch("tiny", files, tmp_path)
    assert not list(tmp_path.glob("model-1*"))


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        (("delete", "models/tiny/manifest.sha256"), ModelMissing, r"synkti model push"),
        (("put", "models/tiny/manifest.sha256", b"nonsense"), ModelDamaged, "line 1 of the manifest"),
        (("delete", "models/tiny/config.json"), ModelMissing, r"config\.json is missing"),
        (("put", "models/tiny/config.json", b"{ }"), ModelDamaged, "has 3 bytes, not 2"),
    ],
)
def test_what_is_missing_or_cut_short_is_found_before_anything_is_downloaded(
    s3: Any, change: tuple[Any, ...], error: type[Exception], why: str
) -> None:
    if change[0] == "delete":
        s3.delete_object(Bucket=BUCKET, Key=change[1])
    else:
        s3.put_object(Bucket=BUCKET, Key=change[1], Body=change[2])
    store = ModelStore(s3, BUCKET)
    with pytest.raises(error, match=why):
        store.check("tiny", store.manifest("tiny"))


def test_another_model_than_was_deployed_is_refused(s3: Any) -> None:
    with pytest.raises(ModelDamaged, match=r"and aaaa.* was deployed"):
        ModelStore(s3, BUCKET).manifest("tiny", "a" * 64)


def test_a_refusal_of_s3_is_not_taken_for_a_missing_model(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": "reduce your rate"}}, "GetObject")

    monkeypatch.setattr(s3, "get_object", refuse)
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        ModelStore(s3, BUCKET).manifest("tiny")


# The command

ENVIRON = {"SYNKTI_MODELS_BUCKET": BUCKET, "SYNKTI_MODEL_NAME": "tiny"}


def test_the_command_tells_what_it_did(s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--into", str(tmp_path / "new")], ENVIRON) == 0
    assert main(["--check"], ENVIRON) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tiny: 4 files, 0.00 GiB")
    assert said[1] == "tiny: 4 files, 0.00 GiB, all in S3"
    assert held(tmp_path / "new") == CONTENT


@pytest.mark.parametrize(
    ("environ", "code", "why"),
    [
        ({"SYNKTI_MODEL_NAME": "nothing"}, 69, "does not exist"),
        ({"SYNKTI_MODEL_SHA256": "b" * 64}, 69, "was deployed"),
        ({"SYNKTI_MODELS_BUCKET": ""}, 78, "SYNKTI_MODELS_BUCKET is not set"),
    ],
)
def test_the_command_fails_in_one_line(
    s3: Any, environ: dict[str, str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check"], ENVIRON | environ) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("model: ")
    assert why in line


def test_a_disk_that_is_too_small_is_told_first(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    assert main(["--into", str(tmp_path)], ENVIRON) == 69
    assert "set root_gib higher" in capsys.readouterr().err
    assert held(tmp_path) == {}
