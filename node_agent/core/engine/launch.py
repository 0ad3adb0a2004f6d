"""What an agent and the launcher of the engine's own unit send each other: one line for each message.

    agent -> launcher   {"argv": [...], "environ": {...}}    start this; the writing end of a pipe comes with it
                        stop 1.5                             SIGTERM to its process group, SIGKILL after 1.5 s
    launcher -> agent   started 4711                         its process group
                        refused No such file: 'vllm'         it cannot be started
                        ended -9                             its first process ended; negative: by that signal

The end of the connection is a message, too. From the launcher: no process of the engine is left. From the agent: end
the engine at once. The launcher runs as the engine's user, so an agent does not trust what it reports.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_REQUEST_BYTES = 96 * 1024
"""Of the line with the command. It is sent at once, and fits into a socket's buffer."""

MAX_REPORT_BYTES = 1024
"""Of a launcher's line; an agent reads no longer one."""

MAX_GRACE_S = 600.0
_MAX_PID = 2**22
"""The largest PID_MAX_LIMIT of Linux."""

_MAX_SIGNAL = 64
_MAX_REASON = 500


@dataclass(frozen=True)
class LaunchRequest:
    """The engine to start. argv: its command; environ: variables beside those of its unit."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]


@dataclass(frozen=True)
class Started:
    """The engine runs. group: its process group, which is its first process's number."""

    group: int


@dataclass(frozen=True)
class Refused:
    """The engine cannot be started."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The engine's first process has ended. status: its exit status; negative: the signal."""

    status: int


Report = Started | Refused | Ended


def format_request(request: LaunchRequest) -> bytes:
    """Return the request as a line. Raises ValueError where it is longer than MAX_REQUEST_BYTES."""
    line = json.dumps({"argv": list(request.argv), "environ": dict(request.environ)}).encode() + b"\n"
    if len(line) > MAX_REQUEST_BYTES:
        raise ValueError(f"the engine's command and environment are {len(line)} bytes, more than {MAX_REQUEST_BYTES}")
    return line


def parse_request(line: bytes) -> LaunchRequest:
    """Parse an agent's first line. Raises ValueError."""
    try:
        document: Any = json.loads(line)
        argv, environ = document["argv"], document["environ"]
        texts = [*argv, *environ, *environ.values()]
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a request to start an engine: {error!r}") from error
    if not isinstance(argv, list) or not argv or not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise ValueError("not a request to start an engine: its command or its environment is not of texts")
    return LaunchRequest(tuple(argv), environ)


def format_stop(grace_s: float) -> bytes:
    """Return the line that stops the engine. grace_s: seconds, at most MAX_GRACE_S."""
    return f"stop {min(max(grace_s, 0.0), MAX_GRACE_S):.3f}\n".encode()


def parse_stop(line: bytes) -> float:
    """Parse an agent's further line; return the grace in seconds. Raises ValueError."""
    word, _, number = line.decode("ascii", errors="replace").strip().partition(" ")
    grace_s = float(number)
    if word != "stop" or not math.isfinite(grace_s) or not 0 <= grace_s <= MAX_GRACE_S:
        raise ValueError(f"not a request to stop an engine: {line[:80]!r}")
    return grace_s


def format_report(report: Report) -> bytes:
    """Return the report as a line."""
    match report:
        case Started(group):
            text = f"started {group}"
        case Refused(reason):
            text = f"refused {' '.join(reason.split())[:_MAX_REASON]}"
        case Ended(status):
            text = f"ended {status}"
    return text.encode(errors="replace")[: MAX_REPORT_BYTES - 1] + b"\n"


def parse_report(line: bytes) -> Report:
    """Parse a launcher's line. Raises ValueError."""
    word, _, rest = line.decode(errors="replace").strip().partition(" ")
    if word == "started" and 1 < (group := _integer(rest)) <= _MAX_PID:
        return Started(group)
    if word == "ended" and -_MAX_SIGNAL <= (status := _integer(rest)) <= 255:
        return Ended(status)
    if word == "refused" and rest:
        return Refused(rest[:_MAX_REASON])
    raise ValueError(f"not a report of the engine's launcher: {line[:80]!r}")


def _integer(text: str) -> int:
    """Return a number of a few ASCII digits. Raises ValueError."""
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 8:
        raise ValueError(f"not a number: {text[:20]!r}")
    return int(text)
