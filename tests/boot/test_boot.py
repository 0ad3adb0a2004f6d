"""`make boot`, whole: instances that really boot. In `make test-all`; skipped, with the reason, where it cannot run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.boot.parts import PARTS
from local.boot.requirements import missing, read_machine
from local.deploy import ROOT
from local.process_cleanup import processes_in

COMMAND = [sys.executable, "-m", "local.boot"]
FAULTS = missing(read_machine())
RUN_TIMEOUT_S = 2_400
BOOTING_WITHIN_S = 900.0
GONE_WITHIN_S = 30.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(FAULTS), reason=f"NO INSTANCE IS BOOTED HERE: {'; '.join(FAULTS)}"),
]


def groups() -> list[Path]:
    """Return the control groups of boot runs."""
    return list(Path("/sys/fs/cgroup").glob("**/synkti-boot-*"))


def assert_nothing_is_left(out: Path) -> None:
    give_up_at = time.monotonic() + GONE_WITHIN_S
    while left := [*processes_in(out), *(out / "run").iterdir(), *groups()]:
        assert time.monotonic() < give_up_at, f"left: {left}"
        time.sleep(0.2)
    assert str(out) not in Path("/proc/self/mounts").read_text()
    assert not list(Path("/run/systemd/nspawn").glob("propagate/i-*")), "systemd-nspawn's files of containers"


@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_instances_boot_serve_and_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([*COMMAND, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"passed: {', '.join(PARTS)}" in " ".join(done.stdout.split())
    assert_nothing_is_left(out)


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_is_left_of_a_run_that_is_ended(signum: int, status: int, tmp_path: Path) -> None:
    out, output = tmp_path / "out", tmp_path / "output"
    with output.open("wb") as file:
        run = subprocess.Popen([*COMMAND, "--out", str(out)], cwd=ROOT, stdout=file, stderr=file)
    try:
        give_up_at = time.monotonic() + BOOTING_WITHIN_S
        while " launched:" not in output.read_text():
            assert run.poll() is None, output.read_text()
            assert time.monotonic() < give_up_at, output.read_text()
            time.sleep(0.2)
        time.sleep(3)  # into the boot
        os.kill(run.pid, signum)
        assert run.wait(GONE_WITHIN_S) == status
    finally:
        run.kill()
        run.wait()
    assert_nothing_is_left(out)
