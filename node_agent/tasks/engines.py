"""How a door reaches the engine of any node: its own directly, another one through that node's peer door."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from node_agent.core.addresses import parse_address
from node_agent.core.fleet import NodeStatus
from node_agent.core.signing import AUTH_HEADER, sign
from node_agent.ports import ExchangeLost, Http, Response
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


class Engines:
    """Opens requests at the engines of the fleet."""

    def __init__(self, node: Node, served: ServedRequests, client: Http, key: bytes) -> None:
        self._node = node
        self._served = served
        self._client = client
        self._key = key
        self._opening: dict[asyncio.Future[Response], str] = {}
        self._given_up: set[asyncio.Future[Response]] = set()
        # Weakly: an exchange that nobody reads any more needs no watching.
        self._open: WeakKeyDictionary[Response, str] = WeakKeyDictionary()

    async def open(
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
        """Ask the engine of `target_node`. Raises ExchangeLost; a refused connection makes the peer suspect at once.

        max_tokens: of the answer, None where unknown; silence_s: how long it may say nothing.
        """
        if target_node.instance_id == self._node.instance_id:
            return await self._served.open(method, target, headers, body, max_tokens, silence_s)
        peer_target = ENGINE_PREFIX + target
        stamp = sign(self._key, method, peer_target, body, self._node.clock(), secrets.token_hex(12))
        extra = {AUTH_HEADER: stamp}
        if max_tokens is not None:
            extra[MAX_TOKENS_HEADER] = str(max_tokens)
        asking = asyncio.ensure_future(
            self._client.open(
                parse_address(target_node.peer),
                method,
                peer_target,
                headers={**headers, **extra},
                body=body,
                silence_s=silence_s,
            )
        )
        self._opening[asking] = target_node.instance_id
        try:
            exchange = await asking
        except asyncio.CancelledError:
            if asking in self._given_up:
                raise ExchangeLost(PEER_SILENT) from None
            raise
        except ExchangeLost as lost:
            if lost.why in _GONE:
                self._node.fleet.failed(target_node.instance_id)
            raise
        finally:
            del self._opening[asking]
            self._given_up.discard(asking)
        if exchange.status == 503 and LOST_HEADER in exchange.headers:
            why = exchange.headers[LOST_HEADER].decode("latin-1")
            exchange.close()
            raise ExchangeLost(why)
        self._open[exchange] = target_node.instance_id
        return exchange

    async def watch(self) -> None:
        """Lose what is under way at peers that are silent: their sockets may stay open; until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            for asking, instance_id in list(self._opening.items()):
                if self._is_silent(instance_id):
                    self._given_up.add(asking)
                    asking.cancel()
            for exchange, instance_id in list(self._open.items()):
                if self._is_silent(instance_id):
                    exchange.abort(PEER_SILENT)

    def _is_silent(self, instance_id: str) -> bool:
        return self._node.fleet.is_silent(instance_id, self._node.clock())
