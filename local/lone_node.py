"""A node without its agent, that knows the peers it was told of: for tests and measurements of single tasks."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable

from node_agent.adapters.http import HttpClient
from node_agent.core.common.address import Address
from node_agent.core.common.cluster_keys import cluster_key
from node_agent.core.membership import Membership, NodesDiscovered
from node_agent.core.membership.wire.messages import BOOT_ID_BYTES
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.request_signer import PeerName, RequestSigner
from node_agent.core.node.status import NodeStatus
from node_agent.ports import Identity
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.gossip import Gossip


class NoDatagrams:
    """A datagram transport that drops everything."""

    def send(self, to: Address, data: bytes) -> None:
        """Drop the datagram."""


def boot_id_of(instance_id: str) -> bytes:
    """Return a boot id that depends only on the instance id."""
    return hashlib.blake2b(instance_id.encode(), digest_size=BOOT_ID_BYTES).digest()


def add_peer(node: NodeContext, status: NodeStatus) -> None:
    """Add a peer to a node's members."""
    node.members.add_member(boot_id_of(status.instance_id), status)


def signer_for(instance_id: str, secret: bytes, own_id: str = "i-own") -> RequestSigner:
    """Return a signer of requests to one peer, whatever its address, that does not have its boot id yet."""
    key = cluster_key(secret)
    return RequestSigner(own_id, lambda _: key, lambda _: PeerName(instance_id, None), PeerClocks())


def lone_node(own: NodeStatus, peers: Iterable[NodeStatus], clock: Callable[[], float]) -> NodeContext:
    """Create a node in a running loop. clock: unix seconds."""
    now = asyncio.get_running_loop().time
    machine = Membership(own, boot_id_of(own.instance_id), b"key", now(), lambda: 0.5)
    metrics = Metrics()
    gossip = Gossip(machine, NoDatagrams(), HttpClient(), now, metrics)
    host = own.peer_address.rpartition(":")[0]
    identity = Identity(own.instance_id, own.pool.zone, "us-east-1", own.pool.instance_type, host)
    node = NodeContext(identity, own.model, clock, gossip, metrics)
    gossip.handle(NodesDiscovered(now(), ()))
    for peer in peers:
        add_peer(node, peer)
    return node
