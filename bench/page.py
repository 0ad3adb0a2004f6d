"""Measures what the page costs a node: `python -m bench.page`.

A node with NODES in its membership table, of which every one has a new load and some have a new state each second. The
viewers read in another process. The node's CPU is a share of one core, over so many seconds, without viewers, with one,
and with as many as a node serves. Where this machine has a Chromium, it opens the page LOADS times, each in a new
context without a cache: the times from the navigation to the first paint of the page, and to the first whole fleet.
Exit code 1 where one viewer, or the median first paint, is above its goal.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import uvloop
from rich.console import Console

from bench.command import parse_rounds, table
from local.chromium import Browser, chromium, program
from local.errors import LocalRunError
from local.page_stage import Stage, page_stage
from node_agent.contract.states import NodeState
from node_agent.core.openai.routes import SNAPSHOT_EVENTS
from node_agent.core.snapshot.viewers import MAX_VIEWERS

NODES = 300
GOAL_SHARE = 0.05
GOAL_PAINT_MS = 100.0
LOADS = 9
SECONDS = 20
_STATES_A_SECOND = 5
_CONNECT_WITHIN_S = 30
_READ = "read"


async def _measure(viewers: int, seconds: int) -> tuple[float, int]:
    """Return the node's share of a core with so many viewers, and the bytes of a snapshot."""
    async with page_stage(NODES) as stage:
        address = urlsplit(stage.url)
        command = [sys.executable, "-m", "bench.page", _READ, str(address.hostname), str(address.port), str(viewers)]
        reading = await asyncio.create_subprocess_exec(*command)
        try:
            for _ in range(_CONNECT_WITHIN_S):
                await _change(stage, 1)
                if len(stage.page.viewers) == viewers:
                    break
            else:
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


async def _open(browser: Browser, url: str) -> tuple[float, float]:
    """Open the page in a new context; return the milliseconds to its first paint, and to the fleet."""
    tab = await browser.tab()
    await tab.open(url)
    shown = await tab.until(f"document.querySelectorAll('.node').length === {NODES} && performance.now()")
    paint = await tab.until("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    await tab.send("Page.close")
    return float(paint), float(shown)


async def _measure_paint() -> tuple[float, float]:
    """Return the medians of LOADS loads."""
    with tempfile.TemporaryDirectory() as folder:
        async with page_stage(NODES) as stage, chromium(Path(folder)) as browser:
            await _open(browser, stage.url)  # the browser's own start is not the page's
            loads = [await _open(browser, stage.url) for _ in range(LOADS)]
    return median(paint for paint, _ in loads), median(shown for _, shown in loads)


def _read(host: str, port: int, viewers: int) -> None:
    """Read snapshots on so many connections, until the process is killed."""
    connections = [socket.create_connection((host, port)) for _ in range(viewers)]
    for connection in connections:
        connection.sendall(f"GET {SNAPSHOT_EVENTS} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    while connections:
        for connection in connections:
            connection.recv(256 * 1024)


def main() -> int:
    """Measure and print; return 1 where a goal is missed."""
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
    paint_ms = 0.0
    if program() is not None:
        paint_ms, shown_ms = uvloop.run(_measure_paint())
        Console().print(
            f"first paint {paint_ms:.0f} ms, {NODES} nodes shown {shown_ms:.0f} ms; medians of {LOADS} loads"
        )
    return 1 if shares[1] > GOAL_SHARE or paint_ms > GOAL_PAINT_MS else 0


if __name__ == "__main__":
    sys.exit(main())
