"""Steps of the engine's core: the plug-in's count as the agent reads it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.adapters.engine_steps import STEPS_DIR, EngineStepFiles
from synkti_engine import steps as plug_in


class Output:
    def __init__(self, tokens: int) -> None:
        self.total_num_scheduled_tokens = tokens


class Scheduler:
    def update_from_output(self, scheduler_output: Output, runner_output: str) -> str:
        return f"of {runner_output}"


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Scheduler]:
    monkeypatch.setenv(STEPS_DIR, str(tmp_path / "steps"))
    made: type[Scheduler] = type("Scheduler", (Scheduler,), {"update_from_output": Scheduler.update_from_output})
    plug_in.install(made)
    return made


def test_the_agent_reads_the_step_count_of_the_core(tmp_path: Path, scheduler: type[Scheduler]) -> None:
    assert plug_in.STEPS_DIR == STEPS_DIR
    files = EngineStepFiles(tmp_path / "steps")
    assert files.read() is None
    files.forget()
    core = scheduler()
    for done in range(3):
        assert core.update_from_output(Output(8), "a") == "of a"
        assert files.read() == done + 1
    core.update_from_output(Output(0), "a")
    assert files.read() == 3, "nothing was computed"
    files.forget()
    assert files.read() is None
    core.update_from_output(Output(8), "a")
    assert files.read() is None, "it is on its way out"


def test_several_cores_are_one_engine(tmp_path: Path) -> None:
    for pid, count in (("7", 3), ("8", 4)):
        (tmp_path / pid).write_bytes(struct.pack("<Q", count))
    assert EngineStepFiles(tmp_path).read() == 7


def test_a_core_that_cannot_write_its_count_still_works(scheduler: type[Scheduler]) -> None:
    assert scheduler().update_from_output(Output(1), "b") == "of b", "there is no such folder"


def test_nothing_is_patched_without_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STEPS_DIR, raising=False)
    before: Any = Scheduler.update_from_output
    plug_in.install(Scheduler)
    assert Scheduler.update_from_output is before


@given(content=st.binary(max_size=32), name=st.sampled_from(["1", "x", "12.tmp", "0"]))
def test_an_invalid_count_is_none(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    folder = tmp_path_factory.mktemp("steps")
    (folder / name).write_bytes(content)
    (folder / "9").mkdir()
    files = EngineStepFiles(folder)
    read = files.read()
    assert read == (struct.unpack("<Q", content)[0] if len(content) == 8 and name.isdigit() else None)
    files.forget()


def test_a_link_or_a_fifo_of_a_compromised_engine_is_no_count(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(struct.pack("<Q", 5))
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/7").symlink_to(tmp_path / "own")
    os.mkfifo(tmp_path / "steps/8")
    files = EngineStepFiles(tmp_path / "steps")
    assert files.read() is None
    files.forget()
    assert (tmp_path / "own").exists()
