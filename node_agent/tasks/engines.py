"""How a door reaches the engine of any node: its own directly, another one through that node's peer door."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

from node_agent.core.addresses import parse_address
from node_agent.core.fleet import NodeStatus
from node_agent.core.patience import accept_s
from node_agent.core.signing import AUTH_HEADER, sign
from node_agent.ports import ExchangeLost, Http, Response
from node_agent.tasks.asked import Asked
from node_agent.tasks.kv_bring import Contexts
from node_agent.tasks.node import Node
from node_agent.tasks.served import ServedRequests

ENGINE_PREFIX = "/peer/v1/engine"
STATUS_TARGET = "/peer/v1/status"
MAX_TOKENS_HEADER = "x-synkti-max-tokens"
LOST_HEADER = b"x-synkti-lost"
"""On a peer door's 503: why its engine lost the request, which has to go on elsewhere."""

PEER_SILENT = "peer-silent"
WRONG_MODEL = "wrong-model"
_WATCH_EVERY_S = 0.5
_GONE = frozenset({"refused", "unreachable", "reset"})
"""Losses that say something of the node, not only of one request."""


class AtPeer(Asked):
    """A request at the engine of another node, through its peer door."""

    def __init__(self, engines: Engines, instance_id: str, exchange: Response) -> None:
        super().__init__(exchange)
        self.instance_id = instance_id
        self._engines = engines

    async def head(self) -> None:
        await self.exchange.head()
        if self.exchange.status == 503 and LOST_HEADER in self.exchange.headers:
            raise ExchangeLost(self.exchange.headers[LOST_HEADER].decode("latin-1"))

    def close(self) -> None:
        self._engines.forget(self)
        self.exchange.close()


class Engines:
    """Asks the engines of the fleet."""

    def __init__(self, node: Node, served: ServedRequests, client: Http, key: bytes, contexts: Contexts) -> None:
        self._node = node
        self._served = served
        self._client = client
        self._key = key
        self._contexts = contexts
        self._at_peers: set[AtPeer] = set()

    async def bring(self, target_node: NodeStatus, stream: str, source: str) -> None:
        """Before this node's own engine goes on with a stream: its context. Another node does that for itself."""
        if source and target_node.instance_id == self._node.instance_id:
            await self._contexts.bring(stream, source)

    def ask(
        self,
        target_node: NodeStatus,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        max_tokens: int | None,
        silence_s: float,
    ) -> Response:
        """Ask the engine of `target_node`; a refused connection makes the peer suspect at once.

        max_tokens: of the answer, None where unknown; silence_s: how long it may say nothing.
        """
        name = target_node.instance_id
        if name == self._node.instance_id:
            return self._served.ask(method, target, headers, body, max_tokens, silence_s)
        peer_target = ENGINE_PREFIX + target
        stamp = sign(self._key, method, peer_target, body, self._node.clock(), secrets.token_hex(12))
        extra = {AUTH_HEADER: stamp}
        if max_tokens is not None:
            extra[MAX_TOKENS_HEADER] = str(max_tokens)
        exchange = self._client.ask(
            parse_address(target_node.peer),
            method,
            peer_target,
            headers={**headers, **extra},
            body=body,
            silence_s=silence_s,
            accept_s=accept_s(self._node.min_silence_s),
            lost=lambda why: self._lost(name, why),
        )
        asked = AtPeer(self, name, exchange)
        self._at_peers.add(asked)
        return asked

    def _lost(self, name: str, why: str) -> None:
        if why in _GONE:
            self._node.fleet.failed(name)

    def forget(self, asked: AtPeer) -> None:
        self._at_peers.discard(asked)

    async def watch(self) -> None:
        """Lose what is under way at peers that are silent: their sockets may stay open; until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            now = self._node.clock()
            for asked in list(self._at_peers):
                if self._node.fleet.is_silent(asked.instance_id, now):
                    asked.abort(PEER_SILENT)
