"""A boot run's summary, and how its parts are run: deadlines, failures, and what is run after one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local.boot import run_parts as module
from local.boot.parts import Part
from local.boot.run_parts import run_parts
from local.boot.summary import NEVER_SHOWN, Outcome, format_summary, not_shown
from local.errors import LocalRunError


def test_a_summary_has_a_line_for_each_part_and_for_what_is_not_shown() -> None:
    outcomes = [
        Outcome("boot", "it boots", 31.2),
        Outcome("no-model", "it gives up", 75.0, "not within 60 s: words\nmore"),
        Outcome("vllm", "it serves"),
    ]
    lines = format_summary(5, outcomes, ["a GPU: there is none"]).splitlines()
    assert lines[0].startswith("booted: 5 instances")
    assert lines[2].split() == ["shown", "boot", "31", "s", "it", "boots"]
    assert lines[3].split() == ["FAILED", "no-model", "75", "s", "it", "gives", "up"]
    assert lines[4].strip() == "not within 60 s: words"
    assert lines[5].split() == ["NOT", "RUN", "vllm", "it", "serves"]
    assert lines[-1] == "  - a GPU: there is none"


def test_what_is_not_shown_depends_on_the_machine_and_on_the_parts() -> None:
    assert not_shown("", "v2", "") == list(NEVER_SHOWN)
    more = not_shown("a substitute", "v1", "its packages are for another Python")[len(NEVER_SHOWN) :]
    assert ["a substitute" in more[0], "cgroup v1" in more[1]] == [True, True]
    assert more[2] == "vLLM: its packages are for another Python; the engine is the fake one"


class Emulated:
    """A scene whose fleet is whole or not. instances: none, so that no logs are read."""

    def __init__(self, folder: Path, *, is_whole: bool = True) -> None:
        self.lines: list[str] = []
        self.is_whole = is_whole
        self.emulator = SimpleNamespace(run=self.emulate, instances=[])
        self.template = SimpleNamespace(logs=folder, variants=[])
        self.screen = SimpleNamespace(log=lambda text, style="": self.lines.append(text), heading=self.lines.append)
        self.stopped = asyncio.Event()

    async def emulate(self) -> None:
        await self.stopped.wait()
        raise LocalRunError("nodes cannot start")

    async def fleet(self) -> list[object]:
        if not self.is_whole:
            raise LocalRunError("no fleet")
        return []


async def passes(scene: Any) -> None:
    del scene


async def fails(scene: Any) -> None:
    scene.template.variants.append("for an instance that was not launched")
    raise LocalRunError("not as it has to be")


async def waits(scene: Any) -> None:
    del scene
    await asyncio.sleep(3_600)


async def ends_emulator(scene: Any) -> None:
    scene.stopped.set()
    await asyncio.sleep(3_600)


Run = Callable[[Any], Coroutine[Any, Any, None]]


def outcomes_of(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Emulated], *runs: Run) -> list[tuple[str, bool]]:
    parts = {run.__name__: Part(run, "what", 0.05 if run is waits else 600) for run in runs}
    monkeypatch.setattr(module, "PARTS", parts)

    async def run() -> list[Outcome]:
        return await run_parts(make(), list(parts))  # type: ignore[arg-type] # what it uses of a scene

    return [(outcome.failure, outcome.took_s is not None) for outcome in asyncio.run(run())]


def test_parts_after_a_failed_one_are_run_on_a_whole_fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenes: list[Emulated] = []

    def make() -> Emulated:
        scenes.append(Emulated(tmp_path))
        return scenes[-1]

    found = outcomes_of(monkeypatch, make, fails, passes)
    assert found == [("not as it has to be", True), ("", True)]
    assert (tmp_path / "failed-fails").is_dir()
    assert scenes[0].template.variants == []


def test_parts_after_a_failed_one_are_not_run_without_a_fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = outcomes_of(monkeypatch, lambda: Emulated(tmp_path, is_whole=False), fails, passes)
    assert found == [("not as it has to be", True), ("", False)]


def test_a_part_has_a_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert outcomes_of(monkeypatch, lambda: Emulated(tmp_path), waits) == [("no end within 0 s", True)]


def test_a_part_fails_with_the_emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = outcomes_of(monkeypatch, lambda: Emulated(tmp_path), ends_emulator, passes)
    assert found == [("nodes cannot start", True), ("", False)]


def test_a_bug_in_a_part_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def breaks(scene: Any) -> None:
        raise KeyError(str(scene))

    with pytest.raises(KeyError):
        outcomes_of(monkeypatch, lambda: Emulated(tmp_path), breaks)
