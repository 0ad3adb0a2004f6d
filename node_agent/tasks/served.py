"""What this node's engine is serving: for its own clients and, through the peer door, for those of other nodes.

Every request to the local engine passes here, so that the drain planner knows all of them and can hand each one back
to its entry: its reader then loses the exchange with `handoff`, and the entry goes on where the planner says.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from node_agent.contract.names import DURABILITY_HEADER, NOT_DURABLE
from node_agent.core.addresses import Address
from node_agent.core.drain import ServedStream
from node_agent.core.handing_over import handed_to
from node_agent.ports import Http, Response
from node_agent.tasks.asked import Asked
from node_agent.tasks.node import Node

_DURABILITY = DURABILITY_HEADER.decode()
_SAMPLE_TOKENS = 4
"""The least that a request has to have generated to say something of the engine's pace."""

_BYTES_PER_TOKEN = 4
"""Of a prompt, where nobody counted: about what tokenizers make of English."""


class Served(Asked):
    """One request at the local engine. body_bytes: of the request; own: whether this node is its entry.

    request_id: its stream's; durable: whether its client wants it kept.
    """

    def __init__(
        self,
        registry: ServedRequests,
        key: int,
        max_tokens: int | None,
        body_bytes: int,
        exchange: Response,
        request_id: str,
        *,
        durable: bool,
        own: bool,
    ) -> None:
        super().__init__(exchange)
        self.key = key
        self.request_id = request_id
        self.durable = durable
        self.max_tokens = max_tokens
        self.body_bytes = body_bytes
        self.own = own
        self.handed_off = False
        self._registry = registry

    @property
    def remaining_tokens(self) -> int | None:
        """At most, as a rule: tokens that come together count as one, so it errs on the safe side."""
        return None if self.max_tokens is None else max(0, self.max_tokens - self.pieces)

    @property
    def context_tokens(self) -> int:
        """About what another engine would have to read before it goes on."""
        return self.body_bytes // _BYTES_PER_TOKEN + self.pieces

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
        *,
        own: bool = False,
    ) -> Served:
        """Ask the engine. It is lost with `handoff` where the node begins to drain meanwhile.

        own: whether this node is the request's entry, which counts what it has under way where (`Router.opened`).
        """
        exchange = self._client.ask(self._engine, method, target, headers=headers, body=body, silence_s=silence_s)
        served = Served(
            self,
            next(self._keys),
            max_tokens,
            len(body),
            exchange,
            headers.get("x-request-id", ""),
            durable=headers.get(_DURABILITY) != NOT_DURABLE,
            own=own,
        )
        self._served[served.key] = served
        return served

    def forget(self, served: Served) -> None:
        if self._served.pop(served.key, None) is not None and served.own:
            self.node.router.closed(self.node.instance_id)

    def pace_s(self) -> float:
        """The engine's time per token: of what it serves now, else as it was last; 0 where nobody knows."""
        paces = [pace for served in self._served.values() if (pace := served.pace_s) is not None]
        if paces:
            self._last_pace_s = sum(paces) / len(paces)
        return self._last_pace_s

    def streams(self) -> list[ServedStream]:
        """What is served now and was not handed off, as the drain planner wants it."""
        pace = self.pace_s()
        return [
            ServedStream(served.key, served.remaining_tokens, pace, served.context_tokens)
            for served in self._served.values()
            if not served.handed_off
        ]

    def hand_off(self, key: int, to: str | None) -> Served | None:
        """Give one request back to its entry. to: the instance that has room for it. None where it was not here."""
        served = self._served.get(key)
        if served is None or served.handed_off:
            return None
        served.handed_off = True
        served.exchange.abort(handed_to(to))
        return served

    def hand_off_all(self) -> list[Served]:
        """Give every request back."""
        return [served for key in list(self._served) if (served := self.hand_off(key, None)) is not None]
