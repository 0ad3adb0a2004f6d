"""`synkti wheelhouse`: with pip itself and a folder of small wheels as its index, into S3 in memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import boto3
import pytest

from cli.core.wheelhouse import is_complete, parse_pin
from node_agent.contract.models import ModelFile, format_manifest, parse_manifest
from node_agent.contract.wheelhouse import PREFIX, package_sets
from tests.unit.boot.conftest import ROOT
from tests.unit.boot.wheelhouse import Wheelhouse, make_wheelhouse
from tests.unit.cli.conftest import Run
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Wheelhouse:
    return make_wheelhouse(tmp_path_factory.mktemp("made"))


@pytest.fixture
def small(made: Wheelhouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheelhouse:
    """A checkout with small lock files, and pip with a folder in the place of an index."""
    for name in ("app.py", "cdk.json", "stacks/settings.py"):
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    copied = Wheelhouse(
        tmp_path / "checkout/requirements", tmp_path / "index", tmp_path / "mirror" / made.archive.name, made.downloads
    )
    shutil.copytree(made.requirements, copied.requirements)
    shutil.copytree(made.indexed, copied.indexed)
    shutil.copytree(made.archive.parents[1], tmp_path / "mirror")
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(copied.indexed))
    monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", f"file://{tmp_path}/mirror")
    return copied


def held(bucket: str) -> dict[str, bytes]:
    s3 = boto3.client("s3")
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, Prefix=PREFIX).get("Contents", ())]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_the_bucket_has_what_nodes_look_for_and_a_second_run_downloads_and_uploads_nothing(
    bucket: str, small: Wheelhouse, made: Wheelhouse, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files under the same keys as those that tests/unit/boot/test_install.py installs nodes from."""
    assert run("wheelhouse", "--json").document == {"cluster": "synkti", "uploaded": ["tools", "agent", "engine"]}
    made.store(tmp_path / "expected")
    expected = [path for path in (tmp_path / "expected").rglob("*") if path.is_file()]
    objects = held(bucket)
    assert set(objects) == {path.relative_to(tmp_path / "expected").as_posix() for path in expected}
    for path in expected:
        key = path.relative_to(tmp_path / "expected").as_posix()
        if path.name != "manifest.sha256":
            assert objects[key] == path.read_bytes(), key
    for key in [key for key in objects if key.endswith("manifest.sha256")]:
        folder = key.rpartition("/")[0]
        listed = {f"{folder}/{file.path}" for file in parse_manifest(objects[key].decode())}
        assert listed == {other for other in objects if other.startswith(folder)} - {key}

    monkeypatch.setattr("cli.wheelhouse.PackageDownloader", None)
    assert run("wheelhouse").out == "the wheelhouse is complete\n"


@pytest.mark.long  # each run of the command starts several package installers
def test_an_interrupted_upload_is_completed(bucket: str, small: Wheelhouse, run: Run) -> None:
    run("wheelhouse")
    (manifest,) = [key for key in held(bucket) if key.startswith(f"{PREFIX}agent") and key.endswith(".sha256")]
    boto3.client("s3").delete_object(Bucket=bucket, Key=manifest)
    assert run("wheelhouse", "--json").document["uploaded"] == ["agent"]
    (wheel,) = [key for key in held(bucket) if key.startswith(f"{PREFIX}engine") and key.endswith(".whl")]
    boto3.client("s3").put_object(Bucket=bucket, Key=wheel, Body=b"half of it")
    assert run("wheelhouse", "--json").document["uploaded"] == ["engine"]


@pytest.mark.long  # each run of the command starts several package installers
def test_a_damaged_wheelhouse_is_replaced(bucket: str, small: Wheelhouse, run: Run) -> None:
    """A node that refuses a file of the right size gives this advice."""
    run("wheelhouse")
    right = held(bucket)
    (wheel,) = [key for key in right if key.startswith(f"{PREFIX}agent") and key.endswith(".whl")]
    boto3.client("s3").put_object(Bucket=bucket, Key=wheel, Body=bytes(len(right[wheel])))
    assert run("wheelhouse", "--json").document["uploaded"] == []
    assert run("wheelhouse", "--replace", "--json").document["uploaded"] == ["tools", "agent", "engine"]
    assert held(bucket) == right


def test_an_altered_wheel_of_the_index_is_not_uploaded(bucket: str, small: Wheelhouse, run: Run) -> None:
    (wheel,) = small.indexed.glob("a_client-*")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    done = run("wheelhouse")
    assert done.code == 1
    assert "requirements/agent.txt cannot be downloaded" in done.err
    assert "Expected sha256" in done.err
    assert [key for key in held(bucket) if "/agent-" in key] == []


def test_an_altered_python_is_not_uploaded(bucket: str, small: Wheelhouse, run: Run) -> None:
    (archive,) = small.archive.parent.rglob("*.tar.gz")
    archive.write_bytes(archive.read_bytes() + b"\0")
    done = run("wheelhouse")
    assert (done.code, held(bucket)) == (1, {})
    assert "requirements/python.txt has another" in done.err


def test_an_unreachable_mirror_is_a_sentence(
    bucket: str, small: Wheelhouse, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", "http://127.0.0.1:9")
    done = run("wheelhouse")
    assert done.code == 1
    assert "set UV_PYTHON_INSTALL_MIRROR" in done.err


def test_without_a_bucket_there_is_an_advice(aws: MemoryCloudFormation, small: Wheelhouse, run: Run) -> None:
    done = run("wheelhouse")
    assert done.code == 4
    assert "synkti bootstrap makes it" in done.err


def test_a_missing_lock_file_is_a_sentence(bucket: str, small: Wheelhouse, run: Run) -> None:
    (small.requirements / "engine.txt").unlink()
    done = run("wheelhouse")
    assert done.code == 1
    assert "requirements/engine.txt cannot be read" in done.err


def test_wrong_settings_are_reported_before_anything_is_uploaded(
    aws: MemoryCloudFormation, small: Wheelhouse, run: Run
) -> None:
    Path("synkti.toml").write_text("nodes = 0\n")
    assert run("wheelhouse").code == 78


@pytest.mark.parametrize("text", ["", "x", f"{'a' * 64}  cpython.tar.gz\n", f"{'a' * 63}  20261110/cpython-3.12.1"])
def test_a_malformed_pin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"requirements/python\.txt"):
        parse_pin(text)


def test_the_pin_names_where_python_comes_from() -> None:
    pin = parse_pin((ROOT / "requirements/python.txt").read_text())
    assert pin.url({}).startswith("https://github.com/astral-sh/python-build-standalone/releases/download/2")
    assert "%2B" in pin.url({})
    assert pin.url({"UV_PYTHON_INSTALL_MIRROR": "https://mirror.example/"}).startswith("https://mirror.example/2")


def test_a_manifest_that_cannot_be_read_is_no_complete_set() -> None:
    manifest = format_manifest([ModelFile("a.whl", "a" * 64, 3)])
    assert is_complete(manifest, {"a.whl": 3})
    assert not is_complete(manifest, {"a.whl": 2})
    assert not is_complete("rubbish\n", {"a.whl": 3})


def test_lock_files_have_no_markers() -> None:
    """pip evaluates them for the machine that makes the wheelhouse, which may be another kind of machine."""
    for package_set in package_sets(lambda name: (ROOT / "requirements" / name).read_bytes()):
        text = (ROOT / "requirements" / package_set.requirements).read_text()
        assert not [line for line in text.splitlines() if ";" in line and not line.lstrip().startswith("#")]
