"""Where a stream's journal is kept: a rank of nodes by rendezvous hash, the same in every node's eyes.

The keepers are taken from the first RANKS, so that whoever looks for them finds them there without knowing more than
the stream's id. EC2 takes pools, not instances: so no two copies are in one pool where that can be had, the entry's own
included, and the engine node's pool is avoided next. Nodes that are at risk come last.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator

from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, Pool

RANKS = 4


def rendezvous_rank(stream: str, nodes: Iterable[NodeStatus]) -> list[NodeStatus]:
    """All nodes, the likeliest keeper first."""
    return sorted(nodes, key=lambda node: _weight(stream, node.instance_id), reverse=True)


def choose_replicas(
    stream: str,
    peers: Iterable[NodeStatus],
    taken: Iterable[Pool],
    engine: Pool | None = None,
    slow: Container[str] = (),
) -> list[NodeStatus]:
    """Peers that may keep the stream's journal, the best first, each in another pool than those before where it can be.

    taken: the pools that have the journal already: its entry's, and those of copies that stay; engine: the pool of the
    node that generates, whose loss is likeliest to need them; slow: instance ids of those that do not acknowledge now.
    """
    able = [peer for peer in peers if peer.state in (NodeState.READY, NodeState.AT_RISK, NodeState.STARTING)]
    ranked = rendezvous_rank(stream, able)
    pools = Counter(taken)
    near = [peer for peer in ranked[:RANKS] if peer.instance_id not in slow]
    far = [peer for peer in ranked[RANKS:] if peer.instance_id not in slow]
    last = [peer for peer in ranked if peer.instance_id in slow]
    return [peer for group in (near, far, last) for peer in _spread(group, pools, engine)]


def _spread(ranked: list[NodeStatus], pools: Counter[Pool], engine: Pool | None) -> Iterator[NodeStatus]:
    """In the order of the rank, but the safest first; counts each in its pool."""
    left = list(ranked)
    while left:
        best = min(left, key=lambda peer: (peer.state is not NodeState.READY, pools[peer.pool], peer.pool == engine))
        pools[best.pool] += 1
        left.remove(best)
        yield best


def _weight(stream: str, instance_id: str) -> bytes:
    return hashlib.blake2b(f"{stream} {instance_id}".encode(), digest_size=8).digest()
