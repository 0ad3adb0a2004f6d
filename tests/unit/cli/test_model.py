"""`synkti model push|ls|rm` against S3 in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError

from cli.adapters import buckets, model_documents
from cli.adapters.hub import Hub
from cli.adapters.models_bucket import ModelsBucket
from cli.core import upload_plan
from node_agent.adapters.model_store import ModelStore
from tests.unit.cli import weights
from tests.unit.cli.conftest import Run, make_state
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.core.sizing.models import LLAMA_3_1_8B, WEIGHTS

FILES = {**weights.model(), "tokenizer/vocab.json": b"{}"}
LLAMA_SIZES = {"model.safetensors": WEIGHTS["llama"]}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path / "tiny", FILES)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


def held(bucket: str) -> dict[str, bytes]:
    s3 = boto3.client("s3")
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_a_model_is_pushed_and_nodes_can_read_it(bucket: str, model: Path, run: Run) -> None:
    done = run("model", "push", model)
    assert done.code == 0
    assert f"tiny: 4 files, {SIZE} B; {SIZE} B sent" in done.out
    there = held(bucket)
    assert {key: body for key, body in there.items() if "manifest" not in key} == {
        f"models/tiny/{path}": body for path, body in FILES.items()
    }
    manifest = ModelStore(boto3.client("s3"), bucket).manifest("tiny")
    assert sorted(file.path for file in manifest.files) == sorted(FILES)
    assert f'model_sha256 = "{manifest.digest}"' in done.out


def test_a_push_pins_the_weights_in_the_settings_that_name_the_model(
    bucket: str, model: Path, nowhere: Path, run: Run
) -> None:
    file = nowhere / "synkti.toml"
    file.write_text('model = "tiny"  # ours\nnodes = 2\n')
    first = run("model", "push", model)
    digest = ModelStore(boto3.client("s3"), bucket).manifest("tiny").digest
    assert file.read_text() == f'model = "tiny"  # ours\nnodes = 2\nmodel_sha256 = "{digest}"\n'
    assert "nodes refuse other weights; commit it" in first.err
    assert "has now" not in run("model", "push", model).err, "it is pinned already"
    (model / "config.json").write_bytes(weights.CONFIG + b" ")
    again = run("model", "push", model, "--replace")
    assert f"pinned other weights until now: model_sha256 = {digest}" in again.err
    assert ModelStore(boto3.client("s3"), bucket).manifest("tiny").digest in file.read_text()


@pytest.mark.parametrize(
    ("text", "options"), [('model = "other"\n', []), ('model = "tiny"\n', ["--no-pin"]), ("model = 7\n", [])]
)
def test_a_push_leaves_the_settings_of_another_model_as_they_are(
    text: str, options: list[str], bucket: str, model: Path, nowhere: Path, run: Run
) -> None:
    (nowhere / "synkti.toml").write_text(text)
    assert run("model", "push", model, *options).code == 0
    assert (nowhere / "synkti.toml").read_text() == text


@pytest.mark.parametrize(
    ("types", "code", "message"),
    [
        (["g4dn.xlarge"], 1, "g4dn.xlarge cannot run tiny: 14.5 GiB of a T4"),
        (["g6.xlarge", "g4dn.xlarge"], 0, 'set instance_types = ["g6.xlarge"] in synkti.toml'),
        (["g6.xlarge"], 0, "a context of 24,576 tokens on every node"),
    ],
)
def test_a_push_says_on_which_types_the_model_runs(
    types: list[str], code: int, message: str, bucket: str, nowhere: Path, tmp_path: Path, run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (nowhere / "synkti.toml").write_text(f"instance_types = {json.dumps(types)}\n")
    model = written(tmp_path / "tiny", FILES | {"config.json": json.dumps(LLAMA_3_1_8B).encode()})
    monkeypatch.setattr(model_documents, "file_size", lambda path: LLAMA_SIZES.get(path.name, 1))
    done = run("model", "push", model)
    assert (done.code, message in done.err) == (code, True), done.err
    assert bool(held(bucket)) == (code == 0)
    assert run("model", "push", model, "--unchecked").code == 0


def test_a_second_push_changes_nothing(bucket: str, model: Path, run: Run) -> None:
    first = run("model", "push", model, "--json").document
    versions = len(boto3.client("s3").list_object_versions(Bucket=bucket)["Versions"])
    second = run("model", "push", model, "--json").document
    assert (first["changed"], first["sent_bytes"], second["changed"], second["sent_bytes"]) == (True, SIZE, False, 0)
    assert first["manifest_sha256"] == second["manifest_sha256"]
    assert len(boto3.client("s3").list_object_versions(Bucket=bucket)["Versions"]) == versions
    assert "nothing to do" in run("model", "push", model).out


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose weights are uploaded in three parts."""
    monkeypatch.setattr(upload_plan, "PART_BYTES", 5 * upload_plan.MIB)  # S3's least
    size = 11 * upload_plan.MIB - len(weights.safetensors(size=0)) - 14  # of the data, so that the file has 11 MiB
    files = {"config.json": weights.CONFIG, "tokenizer.json": b"{}", "w.safetensors": weights.safetensors(size=size)}
    assert len(files["w.safetensors"]) == 11 * upload_plan.MIB
    return written(tmp_path / "large", files)


def test_an_interrupted_push_continues_with_its_missing_parts(
    bucket: str, large: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_part = ModelsBucket.put_part

    def breaks(self: ModelsBucket, name: str, path: str, upload_id: str, number: int, body: bytes) -> str:
        if number == 3:
            raise EndpointConnectionError(endpoint_url="https://s3")
        return put_part(self, name, path, upload_id, number, body)

    monkeypatch.setattr(ModelsBucket, "put_part", breaks)
    broken = run("model", "push", large, "--parallel", "1")
    assert broken.code == 1
    assert "AWS cannot be reached" in broken.err
    assert not any("manifest" in key for key in held(bucket)), "what is not whole has no manifest"
    monkeypatch.setattr(ModelsBucket, "put_part", put_part)
    again = run("model", "push", large, "--json").document
    assert again["sent_bytes"] == upload_plan.MIB
    assert held(bucket)["models/large/w.safetensors"] == (large / "w.safetensors").read_bytes()
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)


def test_a_part_of_another_content_is_sent_again(
    bucket: str, large: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, key = boto3.client("s3"), "models/large/w.safetensors"
    sha = hashlib.sha256((large / "w.safetensors").read_bytes()).hexdigest()
    begun = s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata={"sha256": sha})["UploadId"]
    s3.upload_part(Bucket=bucket, Key=key, UploadId=begun, PartNumber=1, Body=b"x" * (5 * upload_plan.MIB))
    assert run("model", "push", large).code == 0
    assert held(bucket)[key] == (large / "w.safetensors").read_bytes()


def test_an_upload_that_was_begun_as_another_file_is_noticed(bucket: str, large: Path, run: Run) -> None:
    s3, key = boto3.client("s3"), "models/large/w.safetensors"
    s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata={"sha256": "0" * 64})
    first = run("model", "push", large)
    assert first.code == 1
    assert "begun with other content" in first.err
    assert run("model", "push", large).code == 0
    assert held(bucket)[key] == (large / "w.safetensors").read_bytes()


def test_a_model_of_other_content_is_not_overwritten(bucket: str, model: Path, run: Run) -> None:
    assert run("model", "push", model).code == 0
    (model / "config.json").write_text('{"model_type": "tiny", "other": 1}')
    (model / "tokenizer" / "vocab.json").unlink()
    refused = run("model", "push", model)
    assert refused.code == 1
    assert "with other content" in refused.err
    assert "--replace" in refused.err
    assert run("model", "push", model, "--replace").code == 0
    there = held(bucket)
    assert there["models/tiny/config.json"] == b'{"model_type": "tiny", "other": 1}'
    assert "models/tiny/tokenizer/vocab.json" not in there


@pytest.mark.parametrize("named", ["folder", "repository"])
def test_a_model_in_hugging_faces_cache(
    named: str, bucket: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B"
    blobs = written(repository / "blobs", weights.model())
    snapshot = repository / "snapshots" / "rev1"
    snapshot.mkdir(parents=True)
    for name in weights.model():
        (snapshot / name).symlink_to(blobs / name)
    (repository / "snapshots" / "rev2").mkdir()
    written(repository / "refs", {"main": b"rev1"})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    given = str(repository) if named == "folder" else "Qwen/Qwen2.5-7B"
    assert run("model", "push", given).code == 0
    assert held(bucket)["models/Qwen2.5-7B/config.json"] == weights.CONFIG


def test_a_hub_that_is_away_is_an_error(bucket: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Hub.__init__, "__defaults__", ("", waits.append))
    done = run("model", "push", "absent/nothing")
    assert (done.code, "http://127.0.0.1:9 does not give absent/nothing" in done.err) == (1, True)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        ({"readme.md": b""}, 4, "is no model"),
        ({**weights.model(), "manifest.sha256": b""}, 1, "a file's name is invalid"),
    ],
)
def test_a_folder_without_a_model_is_not_pushed(
    files: dict[str, bytes], code: int, message: str, bucket: str, run: Run, tmp_path: Path
) -> None:
    done = run("model", "push", written(tmp_path / "it", files))
    assert (done.code, message in done.err) == (code, True)
    assert held(bucket) == {}


def test_bad_names_and_broken_links_are_reported(bucket: str, model: Path, run: Run, tmp_path: Path) -> None:
    assert run("model", "push", model, "--name", "a/b").code == 2
    assert run("model", "push", tmp_path / "not here").code == 4
    (model / "link").symlink_to(tmp_path / "nothing")
    assert "leads to no file" in run("model", "push", model).err


def test_models_are_listed_as_complete_or_incomplete(bucket: str, model: Path, run: Run) -> None:
    assert "no model in" in run("model", "ls").out
    assert run("model", "push", model).code == 0
    boto3.client("s3").put_object(Bucket=bucket, Key="models/half/config.json", Body=b"{}")
    table = run("model", "ls").table
    assert [row[0] for row in table] == ["MODEL", "half", "tiny"]
    assert table[1][-1] == "not whole: push it again"
    assert table[2][1:3] == ["4", f"{SIZE} B"]
    listed = run("model", "ls", "--json").document
    assert {m["name"]: m["whole"] for m in listed["models"]} == {"half": False, "tiny": True}


def test_a_model_is_removed_only_after_a_confirmation(bucket: str, model: Path, run: Run) -> None:
    assert run("model", "push", model).code == 0
    assert run("model", "rm", "tiny").code == 9
    assert "models/tiny/config.json" in held(bucket)
    assert run("model", "rm", "tiny", "--yes").code == 0
    assert held(bucket) == {}
    s3 = boto3.client("s3")
    assert s3.list_object_versions(Bucket=bucket)["Versions"], "they can be restored"
    assert run("model", "rm", "tiny", "--yes").code == 4
    done = run("model", "rm", "tiny", "--yes", "--purge", "--json").document
    assert done["purged_versions"] == 10
    assert "Versions" not in s3.list_object_versions(Bucket=bucket)


def test_many_objects_are_removed_in_several_requests(
    bucket: str, model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_MAX_KEYS", 2)
    assert run("model", "push", model).code == 0
    assert run("model", "rm", "tiny", "--yes", "--purge").code == 0
    assert "Versions" not in boto3.client("s3").list_object_versions(Bucket=bucket)


def test_a_bucket_that_outlived_its_cluster_is_used(
    aws: MemoryCloudFormation, bucket: str, model: Path, run: Run
) -> None:
    aws.delete_stack("synkti-state")
    assert run("model", "push", model).code == 0
    assert run("model", "ls").code == 0


def test_with_several_clusters_one_has_to_be_named(
    aws: MemoryCloudFormation, bucket: str, model: Path, run: Run, nowhere: Path
) -> None:
    other = make_state(aws, "other")
    done = run("model", "push", model)
    assert done.code == 5
    assert "'other', 'synkti'" in done.err
    assert held(bucket) == held(other) == {}
    assert run("model", "push", model, "--cluster", "other").code == 0
    assert held(bucket) == {}
    (nowhere / "synkti.toml").write_text('cluster = "synkti"')
    assert run("model", "push", model).code == 0
    assert held(bucket) != {}
