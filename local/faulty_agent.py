"""Runs the node agent with faults that a file controls at run time: `python -m local.faulty_agent`.

Chaos starts every node this way. FILE, in the working directory, is a JSON object; without it there are no faults:

    clock_s       seconds that the wall clock is ahead (negative: behind); it jumps when the number changes
    close_links   connections that carry journals are accepted and closed, before anything is acknowledged
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "local.faulty_agent")
FILE = "faults.json"
_LOOK_EVERY_S = 0.1


class FaultFile:
    """The current content of the file, read at most ten times a second.

    clock: monotonic seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._last_read_at = float("-inf")
        self._values: dict[str, Any] = {}

    def get(self, name: str) -> float:
        """Return a fault's value; 0 where the file or the name is missing."""
        now = self._clock()
        if now - self._last_read_at >= _LOOK_EVERY_S:
            self._last_read_at = now
            self._values = self._read()
        return float(self._values.get(name, 0))

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return {}


def write_faults(folder: Path, **values: float) -> None:
    """Switch these faults on and all others off, atomically, because the agent may read at any moment."""
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps(values))
    new.replace(folder / FILE)


class ClosedLink(asyncio.Protocol):
    """A replica that accepts a connection and closes it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Close the connection, before anything is acknowledged."""
        self._transport.abort()


def _skew_clock(faults: FaultFile) -> None:
    """Replace `time.time`, before the agent is imported and uses it as its wall clock."""
    right = time.time
    time.time = lambda: right() + faults.get("clock_s")


def _close_links(faults: FaultFile) -> None:
    from node_agent.ports import AlternateProtocol  # noqa: PLC0415 # after the clock is skewed
    from node_agent.runtime.replication.server import ReplicationServer  # noqa: PLC0415

    whole = ReplicationServer.alternate_protocol

    def other(self: ReplicationServer) -> AlternateProtocol:
        real = whole(self)

        def take_over(transport: asyncio.Transport) -> asyncio.Protocol:
            return ClosedLink(transport) if faults.get("close_links") else real.take_over(transport)

        return AlternateProtocol(real.preface, take_over)

    ReplicationServer.alternate_protocol = other  # type: ignore[method-assign] # what this module is for


def main() -> int:
    """Run the agent with the faults that the file has from moment to moment; return its exit code."""
    faults = FaultFile(Path(FILE).resolve(), time.monotonic)
    _skew_clock(faults)
    _close_links(faults)
    from node_agent.__main__ import main as run_agent  # noqa: PLC0415 # after the clock is skewed

    return run_agent()


if __name__ == "__main__":
    sys.exit(main())
