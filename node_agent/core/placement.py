"""Where a stream's journal is kept: a rank of nodes by rendezvous hash, the same in every node's eyes.

The keepers are taken from the first RANKS, so that whoever looks for them finds them there without knowing more than
the stream's id; among these, nodes of other pools than the entry's and the engine node's come first, and nodes that
are at risk last, because EC2 takes pools, not instances.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from node_agent.contract.states import NodeState
from node_agent.core.fleet import NodeStatus, Pool

RANKS = 4


def rank(stream: str, nodes: Iterable[NodeStatus]) -> list[NodeStatus]:
    """All nodes, the likeliest keeper first."""
    return sorted(nodes, key=lambda node: _weight(stream, node.instance_id), reverse=True)


def choose_keepers(stream: str, peers: Iterable[NodeStatus], avoid: Collection[Pool]) -> list[NodeStatus]:
    """Peers that may keep the stream's journal, the best first. avoid: the pools of its entry and its engine."""
    able = [peer for peer in peers if peer.state in (NodeState.READY, NodeState.AT_RISK, NodeState.STARTING)]
    ranked = rank(stream, able)
    near, far = ranked[:RANKS], ranked[RANKS:]
    return sorted(near, key=lambda peer: _badness(peer, avoid)) + far


def _badness(peer: NodeStatus, avoid: Collection[Pool]) -> tuple[bool, bool]:
    return peer.state is not NodeState.READY, peer.pool in avoid


def _weight(stream: str, instance_id: str) -> bytes:
    return hashlib.blake2b(f"{stream} {instance_id}".encode(), digest_size=8).digest()
