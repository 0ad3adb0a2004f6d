"""`make chaos`: no client loses a token, as its certificate shows."""

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
"""FEW has about one of each kind; MANY, in the long tests, is enough for all combinations of two kinds."""

pytestmark = pytest.mark.e2e


def chaos(out: Path, *words: str, within_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local.chaos", "--out", str(out), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)


@pytest.mark.timeout(900)
def test_an_interruption_of_each_kind_loses_no_token(tmp_path: Path) -> None:
    assert_no_token_is_lost(tmp_path, FEW, seed=7, within_s=850, left_out=2)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_two_hundred_interruptions_lose_no_token(tmp_path: Path) -> None:
    assert_no_token_is_lost(tmp_path, MANY, seed=11, within_s=2300)


def assert_no_token_is_lost(out: Path, interruptions: int, seed: int, within_s: float, left_out: int = 0) -> None:
    """Run chaos, and check its certificate. left_out: kinds that may be missing, for lack of nodes."""
    done = chaos(out, "--interruptions", str(interruptions), "--seed", str(seed), within_s=within_s)
    output = done.stdout[-6000:] + done.stderr[-2000:]
    assert done.returncode == 0, output + "\n".join(tail(log, 5) for log in out.glob("logs/*.log"))
    certificate = json.loads((out / "certificate.json").read_text())
    interruptions_by_kind = certificate["interruptions"]
    assert interruptions_by_kind["total"] == interruptions
    kinds = {kind.name for kind in FAULT_KINDS if SIM in kind.engines and not kind.needs_namespace}
    assert len(kinds - set(interruptions_by_kind)) <= left_out
    tokens = certificate["tokens"]
    assert (tokens["lost"], tokens["duplicated"], certificate["client_errors"]) == (0, 0, 0)
    assert certificate["streams"] == certificate["chains_verified"] > interruptions
    assert certificate["resumed"] > interruptions / 10
    assert certificate["unanswerable"]["requests"] == certificate["unanswerable"]["refused"] > 0
    assert not processes_in(out)


def test_an_unknown_kind_is_rejected(tmp_path: Path) -> None:
    done = chaos(tmp_path, "--kinds", "meteor", within_s=60)
    assert done.returncode == 2
    assert "unknown kinds ['meteor']" in done.stderr


def test_a_negative_kv_gib_and_one_with_the_fake_engine_are_rejected(tmp_path: Path) -> None:
    done = chaos(tmp_path, "--kv-gib", "-1", within_s=60)
    assert done.returncode == 2
    assert "--kv-gib is a number of GiB" in done.stderr
    done = chaos(tmp_path, "--kv-gib", "1", within_s=60)
    assert done.returncode == 2
    assert "ENGINE=vllm" in done.stdout
