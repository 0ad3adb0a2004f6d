"""Choose the replicas of a stream's journal: nodes ranked by rendezvous hash, the same ranking at every node.

The replicas are chosen from the first RANKS, so that a node that has only the stream's id finds them there. EC2
reclaims pools, not instances: so no two replicas share a pool where that is possible, the entry's own pool included;
the engine node's pool is avoided next. Nodes that are at risk come last.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, Pool

RANKS = 4
_ABLE = frozenset({NodeState.READY, NodeState.AT_RISK, NodeState.STARTING})
"""States of peers that may become replicas."""

_ELIGIBLE = frozenset({NodeState.READY, NodeState.STARTING})
"""States of peers that may stay replicas."""


@dataclass(frozen=True)
class Candidates:
    """The peers of one moment that may replicate journals: computed once, used for many streams."""

    own_pool: Pool
    peers: Sequence[NodeStatus]
    """Those that this node can send to."""

    slow: frozenset[str]
    """Instance ids of peers that do not acknowledge now; they come last."""

    @cached_property
    def eligible(self) -> frozenset[str]:
        """The peers that may stay replicas, by instance id."""
        return frozenset(peer.instance_id for peer in self.peers if peer.state in _ELIGIBLE)

    @cached_property
    def _able(self) -> frozenset[str]:
        return frozenset(peer.instance_id for peer in self.peers if peer.state in _ABLE)

    def for_stream(self, stream: str, replicas: Iterable[str], engine: Pool | None) -> list[str]:
        """Return the peers that a stream's journal may be sent to besides its replicas, the best first.

        Args:
            stream: the stream's id.
            replicas: the nodes that have its journal.
            engine: the pool of the node that generates.
        """
        existing = frozenset(replicas)
        if existing >= self._able:
            return []  # the usual case in a small fleet, for every stream at each turn
        staying = [p.pool for p in self.peers if p.instance_id in existing and p.instance_id in self.eligible]
        chosen = choose_replicas(stream, self.peers, [self.own_pool, *staying], engine, self.slow)
        return [peer.instance_id for peer in chosen if peer.instance_id not in existing]

    def for_copies(self, stream: str, holders: Container[str]) -> list[str]:
        """Return the peers that may get a copy of a journal without an owner, the best first.

        stream: the stream's id; holders: the nodes that were sent it.
        """
        new = [peer for peer in self.peers if peer.instance_id not in holders]
        if not new:
            return []
        used = [peer.pool for peer in self.peers if peer.instance_id in holders]
        return [peer.instance_id for peer in choose_replicas(stream, new, [self.own_pool, *used], None, self.slow)]


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
    able = [peer for peer in peers if peer.state in _ABLE]
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
