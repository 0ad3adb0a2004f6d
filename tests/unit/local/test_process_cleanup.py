"""Processes of a run are found by their folder, and end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from local.process_cleanup import CleanupProcess, kill_all_in, processes_in, start

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
IN_A_SESSION = f"import subprocess; subprocess.run({SLEEP!r}, start_new_session=True)"
PARENT = [sys.executable, "-c", IN_A_SESSION]


def wait_for_living(folder: Path, count: int) -> None:
    give_up_at = time.monotonic() + 10
    while len(processes_in(folder)) < count:
        assert time.monotonic() < give_up_at, "the processes did not start"
        time.sleep(0.01)


def test_processes_and_their_children_are_found_by_their_folder_and_ended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    parent = start(PARENT, run / "a", os.environ, run / "log")
    other = start(SLEEP, tmp_path / "other", os.environ, tmp_path / "log")
    try:
        wait_for_living(run, 2)
        assert kill_all_in(run)
        assert parent.wait(10) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_killed_runs_processes_are_ended_by_its_undertaker(tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = (
        "import os, sys, time; from pathlib import Path; from local.process_cleanup import CleanupProcess, start\n"
        f"run = Path({str(run)!r}); cleanup = CleanupProcess(run)\n"
        f"start({SLEEP!r}, run / 'node', os.environ, run / 'log'); time.sleep(300)"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3])
    try:
        wait_for_living(run, 1)
        (pid,) = processes_in(run)
    finally:
        driver.kill()
        driver.wait()
    give_up_at = time.monotonic() + 10
    while processes_in(run):
        assert time.monotonic() < give_up_at, f"{pid} outlived its run"
        time.sleep(0.01)


def test_an_undertaker_finishes_on_request(tmp_path: Path) -> None:
    cleanup = CleanupProcess(tmp_path / "run")
    child = start(SLEEP, tmp_path / "run" / "node", os.environ, tmp_path / "run" / "log")
    wait_for_living(tmp_path / "run", 1)
    assert cleanup.scratch.is_dir()
    assert cleanup.finish()
    assert child.wait(5) == -9
    assert not cleanup.scratch.exists()
    assert not (tmp_path / "run").exists()
