"""Runs `make run`: the whole system on one machine, with three of its nodes interrupted while clients read.

    python -m local.demo.__main__ [--engine vllm|sim] [--stay] [--out FOLDER]

Exit code 0: every stream continued exactly. 1: one did not, or something failed; the last line printed says what.
2: the user has to fix something first. 130: stopped before the report was written.

Here is only what has to work in the first second: the headline, and an end without a traceback on Ctrl-C. Everything
else is imported after it (`local/demo/run.py`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

STOPPED = 130


def main() -> int:
    """Print the headline, run the demo; return its exit code (see the module)."""
    began = time.monotonic()
    previous = {number: signal.signal(number, _stop_at_once) for number in (signal.SIGINT, signal.SIGTERM)}
    print("\nSynkti on one machine: streams that outlive the nodes that serve them", flush=True)
    from local.demo.run import run  # noqa: PLC0415 # takes a second, in which there would be nothing to see

    try:
        return run(began)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    """End the process: nothing is started yet that would outlive it."""
    print("\nstopping", flush=True)
    os._exit(STOPPED)


def end_process(code: int) -> None:
    """End the process now, whatever its threads still wait for: a download, or an AWS that does not answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end_process(main())
