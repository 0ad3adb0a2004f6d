"""Attribute the loss of a request without an answer to its engine's death, where the engine died.

Until the engine has begun to answer, an entry must learn that the engine's process ended (`core/engine/lifetime`), not
only that a connection broke: the request may have caused it (`core/failure/crash_suspects`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from node_agent.core.engine.lifetime import (
    answer_start_timeout_s,
    may_indicate_death,
    reports_death,
    starts_answer,
)
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
        self._lifetime = lifetimes.current
        self._began_after_death = self._lifetime.is_dead
        self._key = key
        self._turn = turn
        self._has_begun = False
        self._clock = asyncio.get_running_loop().time
        # A buffered answer's head comes with its body: until then a late head means that it has not begun.
        self._head_is_answer_until = self._clock() + answer_start_timeout_s(body_bytes)
        if turn is not None:
            self._lifetime.suspects.add(key)

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost, with the engine's death as the reason where it died."""
        await self._attributed(self.exchange.head())

    async def read(self) -> bytes:
        """Return what arrived since the last read, b"" at the end. Raises ExchangeLost, as `head`."""
        data = await self._attributed(self.exchange.read())
        if not self._has_begun and data:
            if reports_death(data) and await self._lifetimes.is_core_dead():
                raise self._death()
            if starts_answer(data):
                self._on_begun()
        return data

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, as `head`, also for a 5xx that reports a dead engine."""
        body = await self._attributed(self.exchange.read_all(max_bytes))
        if self.status >= 500 and reports_dead_engine(body) and await self._lifetimes.is_core_dead():
            raise self._death()
        return body

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Pass data to `sink` as it arrives, until the end. Raises ExchangeLost, as `head`."""
        while not self._has_begun and (data := await self.read()):
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
                raise self._death(reason) from lost
            if not await self._lifetimes.has_died(self._lifetime):
                raise
            raise self._death() from lost

    @property
    def _may_have_begun(self) -> bool:
        """Whether the engine may have begun to answer, or never had the request (last_read_at is 0)."""
        waits_for_head = not self.exchange.is_event_stream and self._clock() >= self._head_is_answer_until
        return self._has_begun or waits_for_head or not self.exchange.last_read_at

    def _death(self, reason: LossReason | None = None) -> ExchangeLost:
        """Return the loss by the engine's death.

        An API server answers for seconds after its core has ended: a request that began
        then did not cause the end.

        Args:
            reason: as `EngineLifetime.death`.

        Returns:
            The exception to raise.
        """
        if self._began_after_death:
            return ExchangeLost(LossReason.STARTING)
        return ExchangeLost(self._lifetime.death(self._key, reason))

    def _on_begun(self) -> None:
        self._has_begun = True
        if self._turn is not None:
            self._lifetime.suspects.discard(self._key)
            self._turn.release()
