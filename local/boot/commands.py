"""Runs a program of the system; an end with a failure is an error with the last lines of its output."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from local.errors import LocalRunError

_TIMEOUT_S = 60.0
_LINES = 12


def call(argv: Sequence[str], timeout_s: float = _TIMEOUT_S, environ: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; return its standard output. Raises LocalRunError."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False, env=environ)
    except FileNotFoundError as error:
        raise LocalRunError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LocalRunError(f"{' '.join(argv)}: no end after {timeout_s:.0f} s") from error
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-_LINES:]
        raise LocalRunError(f"{' '.join(argv)}: status {done.returncode}\n" + "\n".join(lines))
    return done.stdout
