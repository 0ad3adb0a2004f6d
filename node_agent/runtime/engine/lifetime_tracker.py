"""Track the lifetimes of this node's engines, and find out whether the current one has just ended.

The supervisor records starts and ends. A request whose connection breaks learns of its engine's end a moment before the
process has ended, or seconds before, where the API server outlives its core.
"""

from __future__ import annotations

import asyncio
import contextlib

from node_agent.core.common.address import Address
from node_agent.core.engine.lifetime import EngineLifetime
from node_agent.core.engine.polled_paths import HEALTH
from node_agent.ports import ExchangeLost, Http
from node_agent.runtime.common.metrics import Metrics

_DEATH_TIMEOUT_S = 0.25
"""From a connection's end to the end of its process, as the system reports them."""

_HEALTH_TIMEOUT_S = 1.0


class LifetimeTracker:
    """The engines that this agent started, one after another.

    engine: where vLLM listens.
    current: the lifetime of the engine that runs, or ran last; number 0 before the first start.
    """

    def __init__(self, client: Http, engine: Address, metrics: Metrics) -> None:
        self._client = client
        self._engine = engine
        self._metrics = metrics
        self._end = asyncio.Event()
        self.current = EngineLifetime(0)

    def started(self) -> None:
        """Record that a new engine process runs: later requests are of its lifetime."""
        self.current = EngineLifetime(self.current.number + 1)
        self._metrics.engine_starts.inc()

    def ended(self, status: int | None = None, *, had_oom_kill: bool = False) -> None:
        """Record that the engine's process ended; arguments as for `EngineLifetime.end`."""
        self.current.end(status, had_oom_kill=had_oom_kill)
        self._end.set()
        self._end = asyncio.Event()

    async def has_died(self, lifetime: EngineLifetime) -> bool:
        """Return whether an engine has ended, or is just ending: its connections may break before its process ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_TIMEOUT_S):
                while not lifetime.has_ended:
                    await self._end.wait()
        return lifetime.has_ended

    async def is_core_dead(self) -> bool:
        """Verify an API server's report that its engine has ended: /health fails. The server exits seconds later."""
        lifetime = self.current
        try:
            answer = await self._client.open(self._engine, "GET", HEALTH, headers={}, read_timeout_s=_HEALTH_TIMEOUT_S)
        except ExchangeLost:
            is_dead = True
        else:
            is_dead = answer.status != 200
            answer.close()
        if is_dead:
            lifetime.confirm_core_death()
        return is_dead
