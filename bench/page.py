"""Measures what the page costs a node: `python -m bench.page`.

A node with NODES in its membership table, of which every one has a new load and some have a new state each second. The
viewers read in another process. The node's CPU is a share of one core, over so many seconds, without viewers, with one,
and with as many as a node serves. Exit code 1 where one viewer costs more than the goal.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from urllib.parse import urlsplit

import uvloop
from rich.console import Console

from bench.command import parse_rounds, table
from local.errors import LocalRunError
from local.page_stage import Stage, page_stage
from node_agent.contract.states import NodeState
from node_agent.core.openai.routes import SNAPSHOT_EVENTS
from node_agent.core.snapshot.viewers import MAX_VIEWERS

NODES = 300
GOAL_SHARE = 0.05
SECONDS = 20
_STATES_A_SECOND = 5
_WARM_UP_S = 4
_READ = "read"


async def _measure(viewers: int, seconds: int) -> tuple[float, int]:
    """Return the node's share of a core with so many viewers, and the bytes of a snapshot."""
    async with page_stage(NODES) as stage:
        address = urlsplit(stage.url)
        command = [sys.executable, "-m", "bench.page", _READ, str(address.hostname), str(address.port), str(viewers)]
        reading = await asyncio.create_subprocess_exec(*command)
        try:
            await _change(stage, _WARM_UP_S)
            if len(stage.page.viewers) != viewers:
                raise LocalRunError(f"{len(stage.page.viewers)} viewers are connected, not {viewers}")
            began, cpu = time.monotonic(), time.process_time()
            await _change(stage, seconds)
            share = (time.process_time() - cpu) / (time.monotonic() - began)
        finally:
            with contextlib.suppress(ProcessLookupError):  # without viewers it ends at once
                reading.kill()
            await reading.wait()
        return share, len(stage.snapshots.encoded())


async def _change(stage: Stage, seconds: int) -> None:
    """Change the fleet each second: every load, and the state of some nodes."""
    for step in range(seconds):
        stage.set_loads(step)
        for number in range(_STATES_A_SECOND):
            state = NodeState.AT_RISK if step % 2 else NodeState.READY
            stage.set_state(1 + (step // 2 * _STATES_A_SECOND + number) % (NODES - 1), state)
        await asyncio.sleep(1)


def _read(host: str, port: int, viewers: int) -> None:
    """Read snapshots on so many connections, until the process is killed."""
    connections = [socket.create_connection((host, port)) for _ in range(viewers)]
    for connection in connections:
        connection.sendall(f"GET {SNAPSHOT_EVENTS} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    while connections:
        for connection in connections:
            connection.recv(256 * 1024)


def main() -> int:
    """Measure and print; return 1 where one viewer costs more than the goal."""
    if sys.argv[1:2] == [_READ]:
        _read(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return 0
    seconds = parse_rounds("bench.page", SECONDS, "seconds of each measurement")
    shares, rows = {}, []
    for viewers in (0, 1, MAX_VIEWERS):
        shares[viewers], size = uvloop.run(_measure(viewers, seconds))
        rows.append([f"{viewers}", f"{shares[viewers] * 100:.2f} %", f"{size / 1000:.0f} kB"])
    Console().print(
        table(f"the page, {NODES} nodes that change each second", ("viewers", "of a core", "a snapshot"), rows, 1)
    )
    return 1 if shares[1] > GOAL_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
