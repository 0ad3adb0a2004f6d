"""A signal cancels a run, and ends every process of it. `make run` whole: tests/e2e/test_run.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.process_cleanup import processes_in

SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from local.interruptible_run import run_with_cleanup
from local.process_cleanup import start

async def run(folder, scratch):
    start([sys.executable, "-c", "import time; time.sleep(300)"], folder / "node", os.environ, folder / "log")
    print("running", flush=True)
    await asyncio.sleep(300)

try:
    asyncio.run(run_with_cleanup(Path(sys.argv[1]), run, print))
except asyncio.CancelledError:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_its_processes_and_files(number: signal.Signals, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=root, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"running\n"
        give_up_at = time.monotonic() + 10
        while not processes_in(tmp_path / "run"):
            assert time.monotonic() < give_up_at, "no process of the run"
            time.sleep(0.01)
        run.send_signal(number)
        assert run.wait(30) == 130
    assert processes_in(tmp_path) == []
    assert list((tmp_path / "run").iterdir()) == []
