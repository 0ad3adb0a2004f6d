"""Attribute the loss of a request without an answer to its engine's death, where the engine died.

Until the engine has begun to answer, an entry must learn that the engine's process ended (`core/engine/lifetime`), not
only that a connection broke: the request may have caused it (`core/failure/crash_suspects`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from node_agent.core.engine.lifetime import may_indicate_death, reports_death
from node_agent.core.engine.pending_answer import PendingAnswer, starts_answer
from node_agent.core.failure.error_body import reports_dead_engine
from node_agent.core.failure.loss import LossReason
from node_agent.ports import ExchangeLost, Response
from node_agent.runtime.engine.lifetime_tracker import LifetimeTracker
from node_agent.runtime.engine.response_proxy import ResponseProxy
from node_agent.runtime.engine.suspect_turns import Turn

_T = TypeVar("_T")


class AttributedResponse(ResponseProxy):
    """The Response port over an engine's response.

    lifetimes: of the engine.
    key: of the request, unique at this node.
    body_bytes: of the request.
    turn: of a request that an engine died under before; it ends once the engine has begun to answer.
    """

    def __init__(
        self, exchange: Response, lifetimes: LifetimeTracker, key: int, body_bytes: int, turn: Turn | None
    ) -> None:
        super().__init__(exchange)
        self._lifetimes = lifetimes
        self._turn = turn
        self._clock = asyncio.get_running_loop().time
        self._pending = PendingAnswer(lifetimes.current, key, body_bytes, self._clock(), is_suspect=turn is not None)

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost, with the engine's death as the reason where it died."""
        await self._attributed(self.exchange.head())

    async def read(self) -> bytes:
        """Return what arrived since the last read, b"" at the end. Raises ExchangeLost, as `head`."""
        data = await self._attributed(self.exchange.read())
        if not self._pending.has_begun and data:
            if reports_death(data) and await self._lifetimes.is_core_dead():
                raise ExchangeLost(self._pending.death())
            if starts_answer(data):
                self._on_begun()
        return data

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, as `head`, also for a 5xx that reports a dead engine."""
        body = await self._attributed(self.exchange.read_all(max_bytes))
        if self.status >= 500 and reports_dead_engine(body) and await self._lifetimes.is_core_dead():
            raise ExchangeLost(self._pending.death())
        return body

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Pass data to `sink` as it arrives, until the end. Raises ExchangeLost, as `head`."""
        while not self._pending.has_begun and (data := await self.read()):
            sink(data)
        await self._attributed(self.exchange.pipe(sink))

    def close(self) -> None:
        """End the request's turn, and its exchange."""
        self._on_begun()
        self.exchange.close()

    async def _attributed(self, waiting: Awaitable[_T]) -> _T:
        try:
            return await waiting
        except ExchangeLost as lost:
            reason = lost.loss.reason
            if self._may_have_begun or (reason is not LossReason.ENGINE_STUCK and not may_indicate_death(reason)):
                raise
            if reason is LossReason.ENGINE_STUCK:
                raise ExchangeLost(self._pending.death(reason)) from lost
            if not await self._lifetimes.has_died(self._pending.lifetime):
                raise
            raise ExchangeLost(self._pending.death()) from lost

    @property
    def _may_have_begun(self) -> bool:
        exchange = self.exchange
        return self._pending.may_have_begun(
            self._clock(), is_event_stream=exchange.is_event_stream, was_sent=bool(exchange.last_read_at)
        )

    def _on_begun(self) -> None:
        self._pending.begin()
        if self._turn is not None:
            self._turn.release()
