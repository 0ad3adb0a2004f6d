"""Run the unit tests and the scenarios several times beside busy loops: no result may depend on the machine's speed.

    python -m checks.stress [--rounds 5] [--loops 2] [pytest arguments]

Starts `loops` busy loops for each core, runs the tests `rounds` times, and prints one line a round. Exit code 0: every
round passed. 1: some test failed; pytest's output is above.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

TESTS = ("tests/unit", "tests/scenarios")
_BUSY = "while True: pass"


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep every core busy with this many loops until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(loops * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(rounds: int, loops: int, arguments: Sequence[str]) -> int:
    """Run the tests; returns how many rounds failed."""
    command = [sys.executable, "-m", "pytest", "-q", "--numprocesses=2", "--dist=loadfile", *(arguments or TESTS)]
    failed = 0
    with busy(loops):
        for number in range(1, rounds + 1):
            began = time.monotonic()
            code = subprocess.run(command, check=False).returncode
            failed += code != 0
            print(f"round {number} of {rounds}: {'failed' if code else 'passed'} in {time.monotonic() - began:.0f} s")
    return failed


def main() -> int:
    """Stress the tests that the command line names; return 0 only if every run passed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loops", type=int, default=2, help="busy loops for each core")
    options, arguments = parser.parse_known_args()
    return 1 if run(options.rounds, options.loops, arguments) else 0


if __name__ == "__main__":
    sys.exit(main())
