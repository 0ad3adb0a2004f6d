"""What this node's engine is serving: for its own clients and, through the peer door, for those of other nodes.

Every request to the local engine passes here, so that the drain planner knows all of them and can hand each one back
to its entry: its reader then loses the exchange with `handoff`, and the entry goes on elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from node_agent.contract.names import DURABILITY_HEADER, NOT_DURABLE
from node_agent.core import drain
from node_agent.core.addresses import Address
from node_agent.core.drain import ServedStream
from node_agent.core.stream import HANDOFF
from node_agent.ports import Http, Response
from node_agent.tasks.asked import Asked
from node_agent.tasks.node import Node

_DURABILITY = DURABILITY_HEADER.decode()
_SAMPLE_TOKENS = 4
"""The least that a request has to have generated to say something of the engine's pace."""


class Served(Asked):
    """One request at the local engine."""

    def __init__(
        self,
        registry: ServedRequests,
        key: int,
        max_tokens: int | None,
        exchange: Response,
        request_id: str,
        durable: bool,
    ) -> None:
        super().__init__(exchange)
        self.key = key
        self.request_id = request_id
        self.durable = durable
        self.max_tokens = max_tokens
        self.handed_off = False
        self._registry = registry

    @property
    def remaining_tokens(self) -> int | None:
        """At most, as a rule: tokens that come together count as one, so it errs on the safe side."""
        return None if self.max_tokens is None else max(0, self.max_tokens - self.pieces)

    @property
    def pace_s(self) -> float | None:
        """The time per token so far, None where too few came."""
        return (self.heard_at - self.began_at) / (self.pieces - 1) if self.pieces >= _SAMPLE_TOKENS else None

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
        self._last_pace_s = 0.0
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
        request_id, durable = headers.get("x-request-id", ""), headers.get(_DURABILITY) != NOT_DURABLE
        served = Served(self, next(self._keys), max_tokens, exchange, request_id, durable)
        self._served[served.key] = served
        self.node.in_flight = len(self._served)
        return served

    def forget(self, served: Served) -> None:
        self._served.pop(served.key, None)
        self.node.in_flight = len(self._served)

    def pace_s(self) -> float:
        """The engine's time per token: of what it serves now, else as it was last; 0 where nobody knows."""
        paces = [pace for served in self._served.values() if (pace := served.pace_s) is not None]
        if paces:
            self._last_pace_s = sum(paces) / len(paces)
        return self._last_pace_s

    def plan(self, now: float, deadline: float) -> drain.DrainPlan:
        """What the drain planner says of what is served now."""
        pace = self.pace_s()
        streams = [ServedStream(s.key, s.remaining_tokens, pace) for s in self._served.values() if not s.handed_off]
        return drain.plan(streams, now, deadline)

    def hand_off(self, keys: Iterable[int]) -> list[str]:
        """Give requests back to their entries. The ids (their streams') of those that may be kept, in order."""
        ids = []
        for key in keys:
            served = self._served.get(key)
            if served is not None and not served.handed_off:
                served.handed_off = True
                served.exchange.abort(HANDOFF)
                if served.durable:
                    ids.append(served.request_id)
        return ids

    def hand_off_all(self) -> list[str]:
        """Give every request back."""
        return self.hand_off(list(self._served))
