"""Runs the load of a soak in a process of its own: `python -m local.soak.load_process`.

A thousand streams keep one process busy. In the process that also runs the fleet and measures it, they would delay
both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

import synkti_client
from local.deploy import ROOT
from local.errors import LocalRunError
from local.process_cleanup import tail
from local.soak.load import LoadGenerator, LoadTotals

LOW_PRIORITY = ("nice", "-n", "5")
"""Clients, and the engines' accelerators, do not compute on the CPUs of an agent in production."""

_REPORT_INTERVAL_S = 1.0
_REFRESH_INTERVAL_S = 2.0
_MAX_LINE = 16 * 1024 * 1024


class LoadProcess:
    """The running process, seen from the one that started it. totals: its last report."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.totals = LoadTotals()
        self._process = process
        self._log = log
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, nodes: Sequence[str], streams: int, over_s: float, seed: int, folder: Path, log: Path
    ) -> LoadProcess:
        """Start it.

        Args:
            nodes: URLs of the first nodes.
            streams: at once.
            over_s: the seconds over which they start.
            seed: of the requests.
            folder: its working directory, by which the run's cleanup finds it.
            log: receives its standard error; its folder exists.

        Returns:
            The running process.
        """
        words = ["--streams", str(streams), "--over", str(over_s), "--seed", str(seed), *nodes]
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *LOW_PRIORITY, sys.executable, "-m", "local.soak.load_process", *words,
                cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "client")))},
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=_MAX_LINE,
            )  # fmt: skip
        return cls(process, log)

    async def stop(self) -> LoadTotals:
        """Start no new streams, wait until the open ones end, return the totals. Raises LocalRunError if it failed."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._reader
        return self.totals

    async def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    def raise_if_ended(self) -> None:
        """Raise LocalRunError where it has ended by itself."""
        if self._reader.done():
            self._reader.result()
            raise LocalRunError(f"the load ended by itself; {self._log} ends:\n{tail(self._log)}")

    async def _read(self) -> None:
        if self._process.stdout is None:
            raise AssertionError("it is started with a pipe")
        async for line in self._process.stdout:
            self.totals = LoadTotals(**orjson.loads(line))
        if status := await self._process.wait():
            raise LocalRunError(f"the load ended with status {status}; {self._log} ends:\n{tail(self._log)}")


def main() -> int:
    """Run the load until standard input ends, and print its totals each second. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    parser.add_argument("nodes", nargs="+")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--over", type=float, required=True, help="seconds over which the streams start")
    parser.add_argument("--seed", type=int, required=True)
    asyncio.run(_run(parser.parse_args()))
    return 0


async def _run(options: argparse.Namespace) -> None:
    transport = synkti_client.async_transport(options.nodes)
    load = LoadGenerator(transport, options.seed)
    load.start(options.streams, options.over)
    background = [asyncio.create_task(_report(load)), asyncio.create_task(_refresh_nodes(transport))]
    try:
        await _end_of_input()
        await load.stop()
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    _print_totals(load)


async def _end_of_input() -> None:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read(-1)


async def _report(load: LoadGenerator) -> None:
    while True:
        _print_totals(load)
        await asyncio.sleep(_REPORT_INTERVAL_S)


def _print_totals(load: LoadGenerator) -> None:
    sys.stdout.buffer.write(orjson.dumps(asdict(load.totals)) + b"\n")
    sys.stdout.buffer.flush()


async def _refresh_nodes(transport: synkti_client.AsyncContinuousTransport) -> None:
    """Refresh the node list: within minutes every node but one is replaced."""
    while True:
        await transport.refresh()
        await asyncio.sleep(_REFRESH_INTERVAL_S)


if __name__ == "__main__":
    sys.exit(main())
