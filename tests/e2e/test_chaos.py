"""`make chaos` with 200 interruptions: nobody loses a token, and the certificate says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from local.chaos.kinds import KINDS
from local.processes import living_in, tail

ROOT = Path(__file__).parents[2]
INTERRUPTIONS = 200

pytestmark = pytest.mark.e2e


def chaos(out: Path, *words: str, within_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local.chaos", "--out", str(out), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)


@pytest.mark.timeout(1500)
def test_two_hundred_interruptions_cost_nobody_a_token(tmp_path: Path) -> None:
    done = chaos(tmp_path, "--interruptions", str(INTERRUPTIONS), "--seed", "7", within_s=1400)
    told = done.stdout[-6000:] + done.stderr[-2000:]
    assert done.returncode == 0, told + "\n".join(tail(log, 5) for log in tmp_path.glob("logs/*.log"))
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    struck = certificate["interruptions"]
    assert struck["total"] == INTERRUPTIONS
    kinds = {kind.name for kind in KINDS} - {"network-cut"}  # for which not every user has the permission
    assert kinds <= set(struck)
    assert (certificate["tokens"]["lost"], certificate["tokens"]["duplicated"], certificate["client_errors"]) == (
        0,
        0,
        0,
    )
    assert certificate["streams"] == certificate["chains_verified"] > INTERRUPTIONS
    assert certificate["resumed"] > INTERRUPTIONS / 10
    assert not living_in(tmp_path)


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
