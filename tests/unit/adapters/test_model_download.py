"""`python -m node_agent.fetch_model` against S3 in memory: whole, again, interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ResponseStreamingError

from node_agent.adapters import model_download, model_folder
from node_agent.adapters.model_download import TRIES
from node_agent.adapters.model_folder import ModelFolder
from node_agent.adapters.model_store import ModelStore
from node_agent.contract.errors import StoreUnavailable
from tests.unit.adapters.pushed_model import FILES, downloader, held, push, run, s3

__all__ = ["s3"]


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
