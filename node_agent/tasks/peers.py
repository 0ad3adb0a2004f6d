"""How this node learns of its peers: from EC2 tags, seldom, and from the peers themselves, every second.

A first version for fleets of tens of nodes: every node asks every other. (SWIM replaces the second loop; the tags
stay the way in.)
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

import orjson

from node_agent.contract.errors import StoreUnavailable
from node_agent.core.addresses import parse_address
from node_agent.core.backoff import jittered_s
from node_agent.core.fleet import Peer, status_from_json
from node_agent.core.signing import AUTH_HEADER, sign
from node_agent.ports import ExchangeLost, Http, Instances
from node_agent.tasks.engines import STATUS_TARGET
from node_agent.tasks.node import Node

TAGS_EVERY_S = 30.0
ASK_EVERY_S = 1.0
_SILENCE_S = 2.0
_MAX_STATUS_BYTES = 64 * 1024
_MAX_AT_ONCE = 32
_log = logging.getLogger(__name__)


async def discover(node: Node, instances: Instances, cluster: str, chance: Callable[[], float]) -> None:
    """Read the peers' tags, until cancelled; an EC2 that does not answer changes nothing."""
    while True:
        try:
            node.fleet.tagged(await instances.nodes(cluster), node.clock())
        except StoreUnavailable as error:
            _log.warning("%s; the peers known stay", error)
        await asyncio.sleep(jittered_s(TAGS_EVERY_S, chance()))


class Announcer:
    """Exchanges statuses with peers."""

    def __init__(self, node: Node, client: Http, key: bytes) -> None:
        self._node = node
        self._client = client
        self._key = key
        self._gate = asyncio.Semaphore(_MAX_AT_ONCE)

    async def run(self, chance: Callable[[], float]) -> None:
        """Until cancelled."""
        while True:
            await self.announce()
            self._count()
            await asyncio.sleep(jittered_s(ASK_EVERY_S, chance()))

    async def announce(self) -> None:
        """Tell every peer this node's status now, and take theirs."""
        await asyncio.gather(*(self._exchange(peer) for peer in list(self._node.fleet.peers.values())))

    async def _exchange(self, peer: Peer) -> None:
        node = self._node
        body = orjson.dumps(node.status().to_json())
        async with self._gate:
            stamp = sign(self._key, "POST", STATUS_TARGET, body, node.clock(), secrets.token_hex(12))
            headers = {"content-type": "application/json", AUTH_HEADER: stamp}
            try:
                address = parse_address(peer.address)
                exchange = await self._client.open(
                    address, "POST", STATUS_TARGET, headers=headers, body=body, silence_s=_SILENCE_S
                )
                try:
                    answer = await exchange.read_all(_MAX_STATUS_BYTES)
                    if exchange.status != 200:
                        _log.warning("peer %s refused this node's status: %d", peer.instance_id, exchange.status)
                        return
                finally:
                    exchange.close()
                node.fleet.heard(status_from_json(orjson.loads(answer)), node.clock())
            except ExchangeLost as lost:
                if lost.why == "refused":
                    node.fleet.failed(peer.instance_id)
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("peer %s at %s answers nonsense: %r", peer.instance_id, peer.address, error)

    def _count(self) -> None:
        now = self._node.clock()
        gauge = self._node.metrics.peers
        peers = self._node.fleet.peers.values()
        gauge.labels("alive").set(sum(peer.is_alive(now) for peer in peers))
        gauge.labels("silent").set(sum(not peer.is_alive(now) for peer in peers))
