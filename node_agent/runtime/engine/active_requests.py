"""Track the requests at this node's engine: of its own clients and, through the peer API, of other nodes.

Every request to the local engine passes here, so that the drain planner has all of them and can hand each one back to
its entry: the entry then loses the exchange with a Handoff, and continues where the planner says.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from node_agent.contract.names import DURABILITY_HEADER, NOT_DURABLE
from node_agent.core.common.address import Address
from node_agent.core.drain.planner import ServedStream
from node_agent.core.failure.loss import Handoff, LossReason
from node_agent.ports import Http
from node_agent.runtime.engine.attributed_response import AttributedResponse
from node_agent.runtime.engine.engine_call import EngineCall
from node_agent.runtime.engine.lifetime_tracker import LifetimeTracker
from node_agent.runtime.engine.suspect_turns import SuspectTurns, Turn
from node_agent.runtime.node.context import NodeContext

_DURABILITY = DURABILITY_HEADER.decode()
_READ_TIMEOUT_S = 900.0
"""Of the connection to the engine, whatever the watchdog finds."""


class EngineCalls:
    """All requests at the local engine, by an increasing key.

    lifetimes: of the engine, whose starts and ends the supervisor records.
    turns: for requests that an engine died under before; `acquire` one before `request`.
    """

    def __init__(self, node: NodeContext, client: Http, engine: Address) -> None:
        self._node = node
        self._client = client
        self._engine = engine
        self._keys = itertools.count(1)
        self._calls: dict[int, EngineCall] = {}
        self._last_time_per_token_s = 0.0
        self._finished_tokens = 0  # of those that are over
        self._finished_token_at = 0.0  # the last of them, in loop time
        self.lifetimes = LifetimeTracker(client, engine, node.metrics)
        self.turns = SuspectTurns()
        node.metrics.served.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._calls)

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        max_tokens: int | None,
        silence_timeout_s: float,
        *,
        own: bool = False,
        turn: Turn | None = None,
    ) -> EngineCall:
        """Send a request to the engine. It is lost with a Handoff when the node begins to drain meanwhile.

        silence_timeout_s: how long it may be silent although the engine serves others.
        own: whether this node is the request's entry, which counts its active requests per node
            (`Router.request_started`).
        turn: of a suspect; this request ends it.

        Returns:
            The call, which counts as active until it is closed.
        """
        exchange = self._client.request(
            self._engine, method, target, headers=headers, body=body, read_timeout_s=_READ_TIMEOUT_S
        )
        key = next(self._keys)
        call = EngineCall(
            AttributedResponse(exchange, self.lifetimes, key, len(body), turn),
            key,
            self._on_closed,
            max_tokens=max_tokens,
            body_bytes=len(body),
            request_id=headers.get("x-request-id", ""),
            durable=headers.get(_DURABILITY) != NOT_DURABLE,
            own=own,
            silence_timeout_s=silence_timeout_s,
        )
        self._calls[key] = call
        return call

    def tokens(self) -> int:
        """Return the tokens received from the engine so far; it never decreases."""
        return self._finished_tokens + sum(call.tokens for call in self._calls.values())

    def has_token_since(self, at: float) -> bool:
        """Return whether a token of a stream arrived since that loop time.

        A stream that is over counts by when its last token arrived: that it ends, because its client is gone or its
        entry gave it up, is no work of the engine.
        """
        active = any(call.last_read_at > at and call.tokens for call in self._calls.values())
        return active or self._finished_token_at > at

    def silent_since(self, at: float) -> list[EngineCall]:
        """Return the requests that were sent, are not paused, and received nothing since that loop time."""
        return [call for call in self._calls.values() if 0 < call.silent_from <= at and not call.is_paused]

    def active(self) -> list[EngineCall]:
        """Return the active requests, oldest first."""
        return list(self._calls.values())

    def abort_all(self, reason: LossReason) -> None:
        """Lose every request because the engine does not work and is about to be ended: each continues elsewhere."""
        self.lifetimes.current.end()
        for call in self.active():
            call.abort(reason)

    def min_time_per_token_s(self) -> float:
        """Return the least time per token of all streams, about one step; 0 where unknown."""
        return min((pace for call in self._calls.values() if (pace := call.time_per_token_s) is not None), default=0.0)

    def time_per_token_s(self) -> float:
        """Return the mean time per token of the active streams, else the last one; 0 where unknown."""
        paces = [pace for call in self._calls.values() if (pace := call.time_per_token_s) is not None]
        if paces:
            self._last_time_per_token_s = sum(paces) / len(paces)
        return self._last_time_per_token_s

    def streams(self) -> list[ServedStream]:
        """Return the active streams that were not handed off, as the drain planner expects them."""
        time_per_token_s = self.time_per_token_s()
        return [
            ServedStream(call.key, call.remaining_tokens, time_per_token_s, call.context_tokens)
            for call in self._calls.values()
            if not call.handed_off
        ]

    def hand_off(self, key: int, to: str | None) -> EngineCall | None:
        """Hand one request back to its entry.

        to: the instance that has room for it.

        Returns:
            The request; None where it is not here, or was handed off before.
        """
        call = self._calls.get(key)
        if call is None or call.handed_off:
            return None
        call.handed_off = True
        call.abort(Handoff(to))
        return call

    def hand_off_all(self) -> list[EngineCall]:
        """Hand every request back."""
        return [call for key in list(self._calls) if (call := self.hand_off(key, None)) is not None]

    def _on_closed(self, call: EngineCall) -> None:
        """Remove a request that is over, and keep the count of its tokens; a second time changes nothing."""
        if self._calls.pop(call.key, None) is None:
            return
        if call.tokens:
            self._finished_tokens += call.tokens
            self._finished_token_at = max(self._finished_token_at, call.last_read_at)
        if call.is_own:
            self._node.router.request_ended(self._node.instance_id)
