"""`make run`, whole: the embedded AWS, the deployed stacks and Lambdas, agents, engines, and the OpenAI SDK."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.processes import living_in, tail

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "out" / "run"
COMMAND = [sys.executable, "-m", "local.run", "--engine"]

pytestmark = pytest.mark.e2e


def run(engine: str, within_s: float, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, engine],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        env={**os.environ, **environ},
        check=False,
    )


def logs() -> str:
    """The end of every log of the last run, for a failure that has to be understood."""
    ends = {log.name: tail(log, 25) for log in sorted((ROOT / "out" / "logs").glob("*.log"))}
    return "\n".join(f"--- {name}\n{end}" for name, end in ends.items())


def assert_nothing_is_left() -> None:
    assert living_in(RUNS) == []
    assert list(RUNS.iterdir()) == []


@pytest.mark.parametrize("engine", ["sim", pytest.param("vllm", marks=pytest.mark.vllm)])
@pytest.mark.timeout(900)
def test_two_nodes_are_taken_and_no_token_is_lost(engine: str) -> None:
    (ROOT / "out" / "certificate.json").unlink(missing_ok=True)
    done = run(engine, within_s=840)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs()}"
    certificate = json.loads((ROOT / "out" / "certificate.json").read_text())
    assert certificate["engine"] == engine
    interruptions = certificate["interruptions"]
    assert interruptions["notice"] >= 1
    assert interruptions["sigkill"] >= 1
    assert certificate["tokens"]["lost"] == certificate["tokens"]["duplicated"] == certificate["client_errors"] == 0
    assert certificate["tokens"]["delivered"] > 1000
    assert certificate["chains_verified"] == certificate["streams"] == interruptions["total"]
    assert set(certificate["pause_ms"]["by_kind"]) == {"notice", "sigkill"}, "each stream went on in another engine"
    # What the deployed Lambda wrote was waited for, and shown.
    for told in ("interruption-notice", "eventbridge", "notice-seen", "State=draining", "launched"):
        assert told in done.stdout
    assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_stops_a_run_in_the_middle_nothing_is_left(number: signal.Signals, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        driver = subprocess.Popen([*COMMAND, "sim"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    give_up_at = time.monotonic() + 120
    while b" ready" not in output.read_bytes():
        assert driver.poll() is None, output.read_text()
        assert time.monotonic() < give_up_at, output.read_text()
        time.sleep(0.05)
    driver.send_signal(number)
    assert driver.wait(30) == (-9 if number is signal.SIGKILL else 130)
    give_up_at = time.monotonic() + 20
    while living_in(RUNS):
        assert time.monotonic() < give_up_at, "processes of the run are left"
        time.sleep(0.05)


def test_a_fleet_that_cannot_start_is_one_clear_failure_and_nothing_is_left(tmp_path: Path) -> None:
    done = run("sim", within_s=120, SYNKTI_MAX_BODY_BYTES="lots")
    assert done.returncode == 1
    assert "SYNKTI_MAX_BODY_BYTES='lots'" in done.stdout, done.stdout[-3000:]
    assert living_in(RUNS) == []
