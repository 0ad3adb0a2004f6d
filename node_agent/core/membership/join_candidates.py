"""Nodes that only EC2's tags name: they are probed, ever more seldom, until they join or EC2 does not list them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from node_agent.contract.states import NodeState
from node_agent.core.membership.member_table import MemberTable
from node_agent.core.node.status import TaggedNode

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
_MAX_CHECKED = 16
"""Candidates checked each time, so that a thousand of them cost no more than a few."""


@dataclass
class _JoinCandidate:
    """A node to probe. due: when to probe it next, in active time; wait_s: the wait after that."""

    instance_id: str
    address: str
    due: float
    wait_s: float = FIRST_RETRY_S


class JoinCandidates:
    """A bounded queue of candidates."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queue: deque[_JoinCandidate] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def replace(self, nodes: Iterable[TaggedNode], table: MemberTable, now: float) -> None:
        """Replace the candidates by a complete EC2 listing, without nodes that left or died here."""
        known = {candidate.instance_id: candidate for candidate in self._queue}
        self._queue = deque()
        for node in nodes:
            if node.instance_id == table.own_id or node.state is NodeState.GONE:
                continue
            if node.instance_id in table.by_id or node.instance_id in table.tombstones:
                continue
            before = known.get(node.instance_id)
            if before is not None and before.address == node.peer_address:
                self._queue.append(before)
            elif len(self._queue) < self._capacity:
                self._queue.append(_JoinCandidate(node.instance_id, node.peer_address, now))

    def not_joined(self, table: MemberTable) -> list[tuple[str, str]]:
        """Return (instance id, address) of the candidates that are not members yet."""
        return [
            (candidate.instance_id, candidate.address)
            for candidate in self._queue
            if candidate.instance_id not in table.by_id
        ]

    def due(self, count: int, table: MemberTable, now: float) -> list[str]:
        """Return up to `count` addresses to probe now; the wait of each one doubles every time, up to MAX_RETRY_S."""
        addresses: list[str] = []
        for _ in range(min(_MAX_CHECKED, len(self._queue))):
            candidate = self._queue.popleft()
            if candidate.instance_id in table.by_id:
                continue
            if candidate.due <= now and len(addresses) < count:
                addresses.append(candidate.address)
                candidate.due = now + candidate.wait_s
                candidate.wait_s = min(MAX_RETRY_S, 2 * candidate.wait_s)
            self._queue.append(candidate)
        return addresses
