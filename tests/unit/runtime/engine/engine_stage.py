"""An engine whose answers, connections and end a test gives, and the requests at it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from node_agent.core.common.address import Address
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.ports import ExchangeLost
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.engine_call import EngineCall
from node_agent.runtime.engine.suspect_turns import Turn
from tests.unit.runtime.a_node import make_node


class Exchange:
    """A response whose bytes and end a test gives. last_read_at: 0 while nothing was sent."""

    is_event_stream = False
    headers: dict[bytes, bytes] = {}  # noqa: RUF012 # never changed
    status, reads, first_read_at, last_read_at = 200, 0, 0.0, 1.0

    def __init__(self) -> None:
        self.feed: asyncio.Queue[bytes | Loss] = asyncio.Queue()

    async def head(self) -> None:
        self._read(await self.feed.get())

    async def read(self) -> bytes:
        return self._read(await self.feed.get())

    async def read_all(self, max_bytes: int) -> bytes:
        return await self.read()

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        while data := await self.read():
            sink(data)

    def _read(self, item: bytes | Loss) -> bytes:
        if not isinstance(item, bytes):
            raise ExchangeLost(item)
        return item

    def pause(self, paused: bool) -> None:
        """Nothing is read of it by itself."""

    def abort(self, loss: Loss) -> None:
        self.feed.put_nowait(loss)

    def close(self) -> None:
        """Nothing to close."""


class Client:
    """An HTTP client of the engine. health: the status of its /health, None where nothing answers."""

    def __init__(self) -> None:
        self.health: int | None = 200
        self.exchanges: list[Exchange] = []

    def request(self, *_: object, **__: object) -> Exchange:
        self.exchanges.append(Exchange())
        return self.exchanges[-1]

    async def open(self, *_: object, **__: object) -> Exchange:
        if self.health is None:
            raise ExchangeLost(LossReason.REFUSED)
        exchange = Exchange()
        exchange.status = self.health
        return exchange


class Stage:
    def __init__(self) -> None:
        self.client = Client()
        client: Any = self.client
        self.served = EngineCalls(make_node(0), client, Address("h", 1))
        self.lifetimes = self.served.lifetimes
        self.lifetimes.started()

    def request(self, turn: Turn | None = None, *, own: bool = False) -> tuple[EngineCall, Exchange]:
        one = self.served.request("POST", "/v1/completions", {}, b"{}", 100, 9.0, own=own, turn=turn)
        return one, self.client.exchanges[-1]

    async def loss(self, waiting: Awaitable[object]) -> Loss:
        with pytest.raises(ExchangeLost) as lost:
            await waiting
        return lost.value.loss


def play(story: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            await story(Stage())

    asyncio.run(run())
