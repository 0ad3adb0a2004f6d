"""What this node's engine is serving: for its own clients and, through the peer door, for those of other nodes.

Every request to the local engine passes here, so that the drain planner knows all of them and can hand each one back
to its entry: its reader then loses the exchange with `handoff`, and the entry goes on elsewhere.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping

from node_agent.core import drain
from node_agent.core.addresses import Address
from node_agent.core.drain import ServedStream
from node_agent.core.stream import HANDOFF
from node_agent.ports import Http, Response
from node_agent.tasks.asked import Asked
from node_agent.tasks.node import Node

_EVENT = b"data: "
_PACE_EVERY = 16
"""Events between two looks at the clock: how fast an engine is changes slower than that."""


class Served(Asked):
    """One request at the local engine. tokens: what it has generated so far."""

    def __init__(self, registry: ServedRequests, key: int, max_tokens: int | None, exchange: Response) -> None:
        super().__init__(exchange)
        self.key = key
        self.max_tokens = max_tokens
        self.tokens = 0
        self.handed_off = False
        self._registry = registry
        self._counted = 0
        self._counted_at = 0.0

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        def counted(data: bytes) -> None:
            self.tokens += data.count(_EVENT)
            if self.tokens - self._counted >= _PACE_EVERY:
                self._look_at_clock()
            sink(data)

        await self.exchange.pipe(counted)

    def _look_at_clock(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._counted:
            self._registry.node.pace.observe((now - self._counted_at) / (self.tokens - self._counted))
        self._counted, self._counted_at = self.tokens, now

    def close(self) -> None:
        self._registry.forget(self)
        self.exchange.close()


class ServedRequests:
    """All requests at the local engine, by a key that only grows."""

    def __init__(self, node: Node, client: Http, engine: Address) -> None:
        self.node = node
        self._client = client
        self._engine = engine
        self._keys = itertools.count(1)
        self._served: dict[int, Served] = {}
        node.metrics.served.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._served)

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        max_tokens: int | None,
        silence_s: float,
    ) -> Served:
        """Ask the engine. It is lost with `handoff` where the node begins to drain meanwhile."""
        exchange = self._client.ask(self._engine, method, target, headers=headers, body=body, silence_s=silence_s)
        served = Served(self, next(self._keys), max_tokens, exchange)
        self._served[served.key] = served
        self.node.in_flight = len(self._served)
        return served

    def forget(self, served: Served) -> None:
        self._served.pop(served.key, None)
        self.node.in_flight = len(self._served)

    def plan(self, now: float, deadline: float) -> drain.DrainPlan:
        """What the drain planner says of what is served now."""
        pace = self.node.pace.time_per_token_s
        streams = [
            ServedStream(s.key, None if s.max_tokens is None else max(0, s.max_tokens - s.tokens), pace)
            for s in self._served.values()
            if not s.handed_off
        ]
        return drain.plan(streams, now, deadline)

    def hand_off(self, key: int) -> None:
        """Give one request back to its entry."""
        served = self._served.get(key)
        if served is not None and not served.handed_off:
            served.handed_off = True
            served.exchange.abort(HANDOFF)

    def hand_off_all(self) -> None:
        """Give every request back."""
        for key in list(self._served):
            self.hand_off(key)
