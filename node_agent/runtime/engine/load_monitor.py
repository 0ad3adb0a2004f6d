"""Measure this node's load: active requests several times a second, and vLLM's own metrics once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.engine.metrics import EngineMetrics, parse_metrics
from node_agent.core.engine.polled_paths import METRICS
from node_agent.core.node.status import Load
from node_agent.core.routing.candidates import MAX_WAITING
from node_agent.ports import ExchangeLost, Http
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.node.context import NodeContext

INTERVAL_S = 0.25
METRICS_EVERY = 4
_SILENCE_S = 2.0
_MAX_BYTES = 4 * 1024 * 1024
_NOTHING = EngineMetrics(0, 0, 0.0)
_WORKS = (NodeState.READY, NodeState.AT_RISK, NodeState.DRAINING)
"""States of a node whose engine may be working."""


class LoadMonitor:
    """Keeps the node's own load up to date.

    engine: where vLLM answers /metrics.
    prefill_tokens_s: the engine's prefill rate, tokens/s, 0 while it was not measured.
    metrics: the newest, None where none could be read.
    exposition: vLLM's own text of them, as last received; b"" while the engine does not answer.
    answered_at: loop time at which the last answered request was sent, -inf for never.
    """

    def __init__(
        self,
        node: NodeContext,
        calls: EngineCalls,
        client: Http,
        engine: Address,
        prefill_tokens_s: Callable[[], float],
    ) -> None:
        self._node = node
        self._calls = calls
        self._client = client
        self._engine = engine
        self._prefill_tokens_s = prefill_tokens_s
        self.metrics: EngineMetrics | None = None
        self._calls_at_poll = 0
        self.exposition = b""
        self.answered_at = float("-inf")
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Measure the load, until cancelled."""
        polls = 0
        while True:
            if polls % METRICS_EVERY == 0 or len(self._calls) > self._calls_at_poll + MAX_WAITING:
                if self._node.state in _WORKS:
                    await self._poll_metrics()
                else:
                    self.metrics, self.exposition = None, b""
            polls += 1
            self._node.set_load(self.load())
            await asyncio.sleep(INTERVAL_S)

    def load(self) -> Load:
        """Return the load. Requests are counted here; only the engine knows how many of them wait.

        Where some waited when it was last read, what has arrived since waits, too, and what has ended left its place to
        one that waited.
        """
        metrics, calls = self.metrics or _NOTHING, len(self._calls)
        waiting = max(0, metrics.waiting + calls - self._calls_at_poll) if metrics.waiting else 0
        waiting = min(waiting, calls)
        running = calls - waiting
        return Load(running, waiting, metrics.kv_use, self._calls.time_per_token_s(), self._prefill_tokens_s())

    async def _poll_metrics(self) -> None:
        """Poll vLLM's metrics; keep the last ones without an answer, whose cause the watchdog judges."""
        sent_at, calls = self._clock(), len(self._calls)
        try:
            exchange = await self._client.open(self._engine, "GET", METRICS, headers={}, read_timeout_s=_SILENCE_S)
            try:
                text = await exchange.read_all(_MAX_BYTES)
            finally:
                exchange.close()
        except ExchangeLost:
            self.exposition = b""  # a collector must not take old figures for new ones
            return
        self.metrics, self.exposition, self.answered_at, self._calls_at_poll = parse_metrics(text), text, sent_at, calls
