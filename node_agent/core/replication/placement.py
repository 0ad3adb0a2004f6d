"""Choose the replicas of a stream's journal: nodes ranked by rendezvous hash, the same ranking at every node.

The replicas are chosen from the first RANKS, so that a node that has only the stream's id finds them there. EC2
reclaims pools, not instances: so no two replicas share a pool where that is possible, the entry's own pool included;
the engine node's pool is avoided next. Nodes that are at risk come last.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator

from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, Pool

RANKS = 4


def rendezvous_rank(stream: str, nodes: Iterable[NodeStatus]) -> list[NodeStatus]:
    """Return all nodes in the stream's order, the likeliest replica first."""
    return sorted(nodes, key=lambda node: _weight(stream, node.instance_id), reverse=True)


def choose_replicas(
    stream: str,
    peers: Iterable[NodeStatus],
    used_pools: Iterable[Pool],
    engine: Pool | None = None,
    slow: Container[str] = (),
) -> list[NodeStatus]:
    """Return the peers that may replicate the stream's journal, the best first, spread over pools where possible.

    Args:
        stream: the stream's id.
        peers: the candidates.
        used_pools: pools that have the journal already: the entry's, and those of replicas that stay.
        engine: the pool of the node that generates, whose loss is likeliest to need the replicas.
        slow: instance ids of peers that do not acknowledge now; they come last.
    """
    able = [peer for peer in peers if peer.state in (NodeState.READY, NodeState.AT_RISK, NodeState.STARTING)]
    ranked = rendezvous_rank(stream, able)
    pools = Counter(used_pools)
    near = [peer for peer in ranked[:RANKS] if peer.instance_id not in slow]
    far = [peer for peer in ranked[RANKS:] if peer.instance_id not in slow]
    last = [peer for peer in ranked if peer.instance_id in slow]
    return [peer for group in (near, far, last) for peer in _spread(group, pools, engine)]


def _spread(ranked: list[NodeStatus], pools: Counter[Pool], engine: Pool | None) -> Iterator[NodeStatus]:
    """Yield by rank, but the safest first, and count each in its pool."""
    remaining = list(ranked)
    while remaining:
        best = min(
            remaining, key=lambda peer: (peer.state is not NodeState.READY, pools[peer.pool], peer.pool == engine)
        )
        pools[best.pool] += 1
        remaining.remove(best)
        yield best


def _weight(stream: str, instance_id: str) -> bytes:
    return hashlib.blake2b(f"{stream} {instance_id}".encode(), digest_size=8).digest()
