"""What this node's engine is serving: for its own clients and, through the peer door, for those of other nodes.

Every request to the local engine passes here, so that the drain planner knows all of them and can hand each one back
to its entry: its reader then loses the exchange with `handoff`, and the entry goes on where the planner says. No timer
of their own ends them: whether a silent one is lost is the engine's watch's to judge (`tasks/engine_watch`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from node_agent.contract.names import DURABILITY_HEADER, NOT_DURABLE
from node_agent.core.addresses import Address
from node_agent.core.drain import ServedStream
from node_agent.core.handing_over import handed_to
from node_agent.core.patience import first_token_s, silence_s
from node_agent.ports import Http, Response
from node_agent.tasks.asked import Asked
from node_agent.tasks.node import Node

_DURABILITY = DURABILITY_HEADER.decode()
_SAMPLE_TOKENS = 4
"""The least that a request has to have generated to say something of the engine's pace."""

_BYTES_PER_TOKEN = 4
"""Of a prompt, where nobody counted: about what tokenizers make of English."""

_OPENING_PIECES = 2
"""Of a stream, which the API server may send before the core has done anything for it."""

_PATIENCE_S = 900.0
"""Of the connection to the engine, whatever is found of the engine itself."""


class Served(Asked):
    """One request at the local engine. body_bytes: of the request; own: whether this node is its entry.

    request_id: its stream's; durable: whether its client wants it kept; silence_s: how long it may be silent although
    the engine serves others, by its entry's word where that is here; is_overtaken: whether it was, for so long.
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
        silence_s: float,
    ) -> None:
        super().__init__(exchange)
        self.key = key
        self.request_id = request_id
        self.durable = durable
        self.max_tokens = max_tokens
        self.body_bytes = body_bytes
        self.own = own
        self.silence_s = silence_s
        self.is_paused = False
        self.is_overtaken = False
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

    @property
    def tokens(self) -> int:
        """What proves that the engine's core has worked for it: at most one for each token."""
        is_answered = self.exchange.status == 200 and self.exchange.is_event_stream
        return max(0, self.exchange.pieces - _OPENING_PIECES) if is_answered else 0

    @property
    def patient_s(self) -> float:
        """How long it may take until its first token, or until the next one after a preemption."""
        return first_token_s(self.body_bytes + self.pieces * _BYTES_PER_TOKEN)

    def allowed_s(self, least_s: float) -> float:
        """How long it may be silent. least_s: of an inter-token timeout.

        What another node is the entry of is judged there; here it is shown to be overtaken.
        """
        if self.own:
            return self.silence_s
        return silence_s(self.pace_s, least_s) if self.pace_s is not None else self.patient_s

    def allow_silence(self, seconds: float) -> None:
        self.silence_s = seconds

    def pause(self, paused: bool) -> None:
        self.is_paused = paused
        self.exchange.pause(paused)

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
        self._tokens_before = 0  # of those that are over
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

        silence_s: how long it may say nothing although the engine serves others; own: whether this node is the
        request's entry, which counts what it has under way where (`Router.opened`).
        """
        exchange = self._client.ask(self._engine, method, target, headers=headers, body=body, silence_s=_PATIENCE_S)
        served = Served(
            self,
            next(self._keys),
            max_tokens,
            len(body),
            exchange,
            headers.get("x-request-id", ""),
            durable=headers.get(_DURABILITY) != NOT_DURABLE,
            own=own,
            silence_s=silence_s,
        )
        self._served[served.key] = served
        return served

    def forget(self, served: Served) -> None:
        if self._served.pop(served.key, None) is None:
            return
        self._tokens_before += served.tokens
        if served.own:
            self.node.router.closed(self.node.instance_id)

    def tokens(self) -> int:
        """Received of the engine so far; it never shrinks."""
        return self._tokens_before + sum(served.tokens for served in self._served.values())

    def under_way(self) -> list[Served]:
        return list(self._served.values())

    def lose_all(self, why: str) -> None:
        """The engine does not work: every request has to go elsewhere."""
        for served in self.under_way():
            served.exchange.abort(why)

    def least_pace_s(self) -> float:
        """The time per token of the stream that has the shortest: about a step; 0 where nobody knows."""
        return min((pace for served in self._served.values() if (pace := served.pace_s) is not None), default=0.0)

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
