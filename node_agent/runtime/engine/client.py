"""Send requests to the engine of any node: this node's directly, another's through that node's peer API."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping

from node_agent.core.common.address import parse_address
from node_agent.core.continuation.timeouts import accept_timeout_s
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.report import parse_loss
from node_agent.core.failure.verdict import Origin
from node_agent.core.node.status import NodeStatus, load_from_header
from node_agent.ports import ExchangeLost, Http, Response
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.response_proxy import ResponseProxy
from node_agent.runtime.engine.suspect_turns import Turn
from node_agent.runtime.node.context import NodeContext

ENGINE_PREFIX = "/peer/v1/engine"
MAX_TOKENS_HEADER = "x-synkti-max-tokens"
LOAD_HEADER = b"x-synkti-load"
"""On the peer API's responses: its engine's load, fresher than gossip."""

LOST_HEADER = b"x-synkti-lost"
"""On the peer API's 503: why its engine lost the request (`core/failure/report`), which has to continue elsewhere."""

ENGINE_HEADER = b"x-synkti-engine"
"""On the peer API's responses that are its engine's; one without it is the API's own, and about that peer only."""


def answered_by(response: Response, *, is_own: bool) -> Origin:
    """Return whose response it is: a node's engine's, or its peer API's.

    is_own: whether the request went to this node.
    """
    return Origin.ENGINE if is_own or ENGINE_HEADER in response.headers else Origin.PEER


def lost_by(lost: ExchangeLost, *, is_own: bool) -> Origin:
    """Return which side lost an exchange: a node's engine, or the connection to its peer API."""
    return Origin.ENGINE if is_own or lost.passed_on else Origin.PEER


class PeerEngineCall(ResponseProxy):
    """A request at the engine of another node, through its peer API."""

    def __init__(self, engines: EngineClient, instance_id: str, exchange: Response) -> None:
        super().__init__(exchange)
        self.instance_id = instance_id
        self._engines = engines

    async def head(self) -> None:
        """Wait for the head, and update the peer's load. Raises ExchangeLost, also for a loss that the peer reports."""
        await self.exchange.head()
        self._engines.on_load(self)
        if self.exchange.status == 503 and LOST_HEADER in self.exchange.headers:
            loss = parse_loss(self.exchange.headers[LOST_HEADER].decode("latin-1"))
            raise ExchangeLost(loss, passed_on=True)

    def close(self) -> None:
        """End the request: it is not active at the peer any more."""
        self._engines.on_closed(self)
        self.exchange.close()


Prefetch = Callable[[str, str], Awaitable[object]]
"""Fetches a stream's context to this node: the stream's id, and KV_HEADER's value."""


class EngineClient:
    """Sends requests to the engines of the fleet. client: of peer APIs, which signs requests."""

    def __init__(self, node: NodeContext, calls: EngineCalls, client: Http, prefetch: Prefetch) -> None:
        self._node = node
        self._calls = calls
        self._client = client
        self._prefetch = prefetch
        self._at_peers: set[PeerEngineCall] = set()

    async def prefetch(self, target_node: NodeStatus, stream: str, source: str) -> None:
        """Fetch a stream's context before this node's own engine continues it. Another node does that by itself."""
        if source and target_node.instance_id == self._node.instance_id:
            await self._prefetch(stream, source)

    async def acquire_turn(self, target_node: NodeStatus) -> Turn | None:
        """Wait for a turn before this node's own engine gets a suspect request; other nodes do that themselves."""
        return await self._calls.turns.acquire() if target_node.instance_id == self._node.instance_id else None

    def request(
        self,
        target_node: NodeStatus,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        max_tokens: int | None,
        silence_timeout_s: float,
        turn: Turn | None = None,
    ) -> Response:
        """Send a request to the engine of `target_node`; a refused connection makes the peer suspect at once.

        max_tokens: of the answer, None where unknown.
        silence_timeout_s: how long it may be silent.
        turn: from `acquire_turn`.

        Returns:
            The response as it arrives. Always close it: until then it counts as active there.
        """
        name = target_node.instance_id
        if name == self._node.instance_id:
            self._node.router.request_started(name)
            return self._calls.request(
                method, target, headers, body, max_tokens, silence_timeout_s, own=True, turn=turn
            )
        peer_target = ENGINE_PREFIX + target
        extra = {} if max_tokens is None else {MAX_TOKENS_HEADER: str(max_tokens)}
        exchange = self._client.request(
            parse_address(target_node.peer_address),
            method,
            peer_target,
            headers={**headers, **extra},
            body=body,
            read_timeout_s=silence_timeout_s,
            accept_timeout_s=accept_timeout_s(self._node.min_silence_s),
            keepalive_timeout_s=self._node.min_silence_s,
            on_lost=lambda loss: self._node.on_connection_lost(name, loss.reason),
        )
        call = PeerEngineCall(self, name, exchange)
        self._at_peers.add(call)
        self._node.router.request_started(name)
        return call

    def on_load(self, call: PeerEngineCall) -> None:
        """Update a peer's load from its response, if its version sends it."""
        line = call.headers.get(LOAD_HEADER)
        if line is not None:
            with contextlib.suppress(ValueError):
                self._node.router.load_reported(call.instance_id, load_from_header(line))

    def on_closed(self, call: PeerEngineCall) -> None:
        """Record that a request at a peer is over; a second time changes nothing."""
        if call in self._at_peers:
            self._at_peers.remove(call)
            self._node.router.request_ended(call.instance_id)

    def abort_peer(self, instance_id: str) -> None:
        """Lose all requests at a dead peer: its sockets may stay open for long."""
        for call in [call for call in self._at_peers if call.instance_id == instance_id]:
            call.abort(LossReason.PEER_SILENT)
