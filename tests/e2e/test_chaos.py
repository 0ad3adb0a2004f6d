"""`make chaos`: no client loses a token, and the certificate says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from local.chaos.kinds import FAULT_KINDS
from local.engines import SIM
from local.process_cleanup import processes_in, tail

ROOT = Path(__file__).parents[2]
FEW, MANY = 32, 200
"""About one of each kind in every run of the tests; enough for each kind to meet each other in the long ones."""

pytestmark = pytest.mark.e2e


def chaos(out: Path, *words: str, within_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local.chaos", "--out", str(out), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)


@pytest.mark.timeout(900)
def test_an_interruption_of_each_kind_costs_nobody_a_token(tmp_path: Path) -> None:
    costs_nobody_a_token(tmp_path, FEW, seed=7, within_s=850, left_out=2)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_two_hundred_interruptions_cost_nobody_a_token(tmp_path: Path) -> None:
    costs_nobody_a_token(tmp_path, MANY, seed=11, within_s=2300)


def costs_nobody_a_token(out: Path, interruptions: int, seed: int, within_s: float, left_out: int = 0) -> None:
    """left_out: kinds that may not have come up, because a kind that finds too few nodes waits for the next round."""
    done = chaos(out, "--interruptions", str(interruptions), "--seed", str(seed), within_s=within_s)
    said = done.stdout[-6000:] + done.stderr[-2000:]
    assert done.returncode == 0, said + "\n".join(tail(log, 5) for log in out.glob("logs/*.log"))
    certificate = json.loads((out / "certificate.json").read_text())
    struck = certificate["interruptions"]
    assert struck["total"] == interruptions
    kinds = {kind.name for kind in FAULT_KINDS if SIM in kind.engines and not kind.needs_namespace}
    assert len(kinds - set(struck)) <= left_out
    tokens = certificate["tokens"]
    assert (tokens["lost"], tokens["duplicated"], certificate["client_errors"]) == (0, 0, 0)
    assert certificate["streams"] == certificate["chains_verified"] > interruptions
    assert certificate["resumed"] > interruptions / 10
    assert certificate["unanswerable"]["requests"] == certificate["unanswerable"]["refused"] > 0
    assert not processes_in(out)


def test_a_kind_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = chaos(tmp_path, "--kinds", "meteor", within_s=60)
    assert done.returncode == 2
    assert "unknown kinds ['meteor']" in done.stderr


def test_blocks_of_less_than_nothing_or_of_the_stand_in_are_refused(tmp_path: Path) -> None:
    done = chaos(tmp_path, "--kv-gib", "-1", within_s=60)
    assert done.returncode == 2
    assert "--kv-gib is a number of GiB" in done.stderr
    done = chaos(tmp_path, "--kv-gib", "1", within_s=60)
    assert done.returncode == 2
    assert "ENGINE=vllm" in done.stdout
