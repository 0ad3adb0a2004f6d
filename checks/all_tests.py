"""Run all tests of a push: those of whole processes, and beside them, at lower priority, all others.

    python -m checks.all_tests

The tests of whole processes (a real vLLM, fleets of processes) have deadlines, and leave a core idle for much of their
time. The others depend on no speed (`make test-stress`): they run niced, in what the first leave. Both always run to
their ends; the first print as they run, the others' output follows. Exit code 0: all passed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHOLE = ("abuse", "contract", "e2e")
"""The folders with tests of whole processes. They run one after the other: each has the machine for itself."""

_NICENESS = "10"
_PYTEST = (sys.executable, "-m", "pytest", "--durations=8")
_LOG = ROOT / "out" / "tests.log"


def folders() -> list[str]:
    """Return the names of all folders with tests."""
    return sorted(folder.name for folder in (ROOT / "tests").iterdir() if any(folder.rglob("test_*.py")))


def commands() -> tuple[list[str], list[str]]:
    """Return the commands of the tests of whole processes, and of all others."""
    whole = [f"tests/{name}" for name in WHOLE]
    others = [f"tests/{name}" for name in folders() if name not in WHOLE]
    return (
        [*_PYTEST, *whole],
        ["nice", "-n", _NICENESS, *_PYTEST, "--numprocesses=4", "--dist=loadfile", *others],
    )


def main() -> int:
    """Run both commands at once; return 0 only if both succeeded."""
    whole, others = commands()
    _LOG.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    with _LOG.open("wb") as log:
        beside = subprocess.Popen(others, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            codes = [subprocess.run(whole, cwd=ROOT, check=False).returncode]
            codes.append(beside.wait())
        finally:
            beside.terminate()
            beside.wait()
    print(_LOG.read_text(errors="replace"))
    print(f"all tests: {time.monotonic() - began:.0f} s")
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
