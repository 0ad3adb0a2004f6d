"""cdk.json's app, as `npx cdk deploy --all` runs it from a checkout."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

APP = json.loads((Path(__file__).parents[3] / "cdk.json").read_text())["app"]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", APP], cwd=folder, capture_output=True, text=True, check=False)


def test_a_clean_checkout_says_what_to_run(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (1, "run make setup first: it installs the CDK app\n")


def test_the_app_runs_in_the_checkouts_own_environment(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"; exit 3\n')
    python.chmod(0o755)
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (3, "app.py\n")
