"""What this node's engine is serving: for its own clients and, through the peer door, for those of other nodes.

Every request to the local engine passes here, so that the drain planner knows all of them and can hand each one back
to its entry: its reader then loses the exchange with `handoff`, and the entry goes on elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from node_agent.core import drain
from node_agent.core.addresses import Address
from node_agent.core.drain import ServedStream
from node_agent.core.stream import HANDOFF
from node_agent.ports import Http, Response
from node_agent.tasks.asked import Asked
from node_agent.tasks.node import Node

_SAMPLE_TOKENS = 4
"""The least that a request has to have generated between two looks at its pace."""


class Served(Asked):
    """One request at the local engine."""

    def __init__(self, registry: ServedRequests, key: int, max_tokens: int | None, exchange: Response) -> None:
        super().__init__(exchange)
        self.key = key
        self.max_tokens = max_tokens
        self.handed_off = False
        self._registry = registry
        self._seen = 0
        self._seen_at = 0.0

    @property
    def remaining_tokens(self) -> int | None:
        """At most, as a rule: tokens that come together count as one, so it errs on the safe side."""
        return None if self.max_tokens is None else max(0, self.max_tokens - self.pieces)

    def pace_s(self) -> float | None:
        """The time per token since the last look, None where too few came."""
        pieces, heard_at = self.pieces, self.heard_at
        if pieces - self._seen < _SAMPLE_TOKENS:
            return None
        pace = (heard_at - self._seen_at) / (pieces - self._seen) if self._seen else None
        self._seen, self._seen_at = pieces, heard_at
        return pace

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

    def look_at_pace(self) -> None:
        """To be called now and then: how fast the engine is, by the requests that it serves."""
        for served in self._served.values():
            if (pace := served.pace_s()) is not None:
                self.node.pace.observe(pace)

    def plan(self, now: float, deadline: float) -> drain.DrainPlan:
        """What the drain planner says of what is served now."""
        pace = self.node.pace.time_per_token_s
        streams = [ServedStream(s.key, s.remaining_tokens, pace) for s in self._served.values() if not s.handed_off]
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
