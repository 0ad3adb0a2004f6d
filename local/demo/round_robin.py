"""A round robin in front of engines, as load balancers have it: each connection goes to the next one, whole.

What a client of plain vLLM has without Synkti, for comparison.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024


class RoundRobin:
    """Listens on a free loopback port while it is entered. engines: host and port of each, in the order of turns."""

    def __init__(self, engines: Sequence[tuple[str, int]]) -> None:
        self._turns = itertools.cycle(engines)
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            engine_reader, engine_writer = await asyncio.open_connection(*next(self._turns))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pipe(reader, engine_writer))
                group.create_task(_pipe(engine_reader, writer))
        except (OSError, ExceptionGroup):
            pass  # the client sees its connection end, as behind any balancer
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of the input, then end the output."""
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        with contextlib.suppress(OSError):
            writer.close()
