"""What a run makes once, and what it needs of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from local import cache
from local.engine_env import engine_command
from local.errors import LocalRunError, UserActionRequired


def test_a_result_is_made_once_and_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNKTI_CACHE", str(tmp_path))
    made = []

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise LocalRunError("no network")

    with pytest.raises(LocalRunError):
        cache.build_once("thing", fail)
    for _ in range(2):
        folder = cache.build_once("thing", lambda folder: made.append((folder / "half").exists()))
    assert (made, folder) == ([False], tmp_path / "thing")


def test_a_full_disk_is_reported_before_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNKTI_CACHE", str(tmp_path))
    with pytest.raises(UserActionRequired, match=r"no disk space: .* SYNKTI_CACHE"):
        cache.require_space(10**9)


def test_the_plugin_is_only_on_the_engines_path() -> None:
    plain = engine_command(Path("/env"), Path("/model"), "m", "127.0.0.1", 8002)
    plugged = engine_command(Path("/env"), Path("/model"), "m", "127.0.0.1", 8002, Path("/plugin"))
    assert plugged == ["env", "PYTHONPATH=/plugin", *plain]
    assert not any("synkti" in word for word in plain)
