"""`make boot`, whole: instances that really boot, a test for each part.

In `make test-all`; skipped, with the reason, where it cannot run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.boot.parts import PARTS, VLLM_PART
from local.boot.requirements import THIS_PYTHON, missing, missing_for_vllm, read_machine
from local.boot.summary import OUTCOMES
from local.deploy import ROOT
from local.process_cleanup import processes_in

COMMAND = [sys.executable, "-m", "local.boot"]
FAULTS = missing(read_machine())
RUN_TIMEOUT_S = 5_400
BOOTING_WITHIN_S = 900.0
GONE_WITHIN_S = 30.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(FAULTS), reason=f"NO INSTANCE IS BOOTED HERE: {'; '.join(FAULTS)}"),
]


def names_of(out: Path) -> set[str]:
    """Return the names of the runs that have a folder now; a run's control groups have its name."""
    return {folder.name for folder in (out / "run").glob("*")}


def groups(names: set[str]) -> list[Path]:
    """Return the control groups of these runs: others of this machine may run at the same time."""
    return [group for name in names for group in Path("/sys/fs/cgroup").glob(f"**/synkti-boot-{name}")]


def assert_nothing_is_left(out: Path, names: set[str]) -> None:
    assert names, "no run had a folder"
    give_up_at = time.monotonic() + GONE_WITHIN_S
    while left := [*processes_in(out), *(out / "run").iterdir(), *groups(names)]:
        assert time.monotonic() < give_up_at, f"left: {left}"
        time.sleep(0.2)
    assert str(out) not in Path("/proc/self/mounts").read_text()
    assert not list(Path("/run/systemd/nspawn").glob("propagate/i-*")), "systemd-nspawn's files of containers"


@dataclass(frozen=True)
class Run:
    """A whole run. names: of its folders; outcomes: by the parts' names; output: what it printed."""

    out: Path
    names: set[str]
    status: int
    outcomes: dict[str, dict[str, object]]
    output: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("whole") / "out"
    log, names = out.with_name("output"), set[str]()
    with log.open("wb") as file:
        run = subprocess.Popen([*COMMAND, "--out", str(out)], cwd=ROOT, stdout=file, stderr=file)
    try:
        while run.poll() is None:
            names |= names_of(out)
            time.sleep(1)
    finally:
        run.terminate()
        run.wait()
    output = log.read_text()
    print(output)  # pytest shows it where a test fails
    written = out / "logs" / OUTCOMES
    outcomes = json.loads(written.read_text()) if written.exists() else []
    return Run(out, names, run.returncode, {outcome["name"]: outcome for outcome in outcomes}, output)


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize("name", PARTS)
def test_a_part_shows_what_it_is_for(name: str, whole: Run) -> None:
    if name == VLLM_PART and (fault := missing_for_vllm(THIS_PYTHON)):
        assert f"vLLM: {fault}" in whole.output, "the summary says so"
        pytest.skip(f"vLLM IS NOT BOOTED HERE: {fault}")
    assert name in whole.outcomes, whole.output
    outcome = whole.outcomes[name]
    assert outcome["took_s"] is not None, "it was not run"
    assert outcome["failure"] == ""


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_a_whole_run_ends_with_its_summary_and_leaves_nothing(whole: Run) -> None:
    assert whole.status == 0, whole.output
    assert "not shown here:" in whole.output
    assert_nothing_is_left(whole.out, whole.names)


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_is_left_of_a_run_that_is_ended(signum: int, status: int, tmp_path: Path) -> None:
    out, output = tmp_path / "out", tmp_path / "output"
    with output.open("wb") as file:
        run = subprocess.Popen([*COMMAND, "--only", "boot", "--out", str(out)], cwd=ROOT, stdout=file, stderr=file)
    try:
        give_up_at = time.monotonic() + BOOTING_WITHIN_S
        while " launched:" not in output.read_text():
            assert run.poll() is None, output.read_text()
            assert time.monotonic() < give_up_at, output.read_text()
            time.sleep(0.2)
        names = names_of(out)
        time.sleep(3)  # into the boot
        os.kill(run.pid, signum)
        assert run.wait(GONE_WITHIN_S) == status
    finally:
        run.kill()
        run.wait()
    assert_nothing_is_left(out, names)
