"""Wrap an exchange with an engine, for classes that add something to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from node_agent.core.failure.loss import Loss
from node_agent.ports import Response


class ResponseProxy:
    """The Response port over another Response."""

    def __init__(self, exchange: Response) -> None:
        self.exchange = exchange

    @property
    def first_read_at(self) -> float:
        return self.exchange.first_read_at

    @property
    def last_read_at(self) -> float:
        return self.exchange.last_read_at

    @property
    def reads(self) -> int:
        return self.exchange.reads

    @property
    def status(self) -> int:
        return self.exchange.status

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return self.exchange.headers

    @property
    def is_event_stream(self) -> bool:
        return self.exchange.is_event_stream

    async def head(self) -> None:
        await self.exchange.head()

    async def read(self) -> bytes:
        return await self.exchange.read()

    async def read_all(self, max_bytes: int) -> bytes:
        return await self.exchange.read_all(max_bytes)

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        await self.exchange.pipe(sink)

    def pause(self, paused: bool) -> None:
        self.exchange.pause(paused)

    def set_read_timeout(self, seconds: float) -> None:
        self.exchange.set_read_timeout(seconds)

    def end_within(self, seconds: float) -> None:
        self.exchange.end_within(seconds)

    def abort(self, loss: Loss) -> None:
        self.exchange.abort(loss)

    def close(self) -> None:
        self.exchange.close()
