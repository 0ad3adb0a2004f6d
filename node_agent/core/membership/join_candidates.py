"""Nodes that only EC2's tags know: they are greeted, patiently, until they are members or not named any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from node_agent.contract.states import NodeState
from node_agent.core.membership.member_table import MemberTable
from node_agent.core.node.status import TaggedNode

FIRST_S = 1.0
MAX_S = 60.0
_LOOKED_AT = 16
"""Names looked at each time, so that a thousand of them cost no more than a few."""


@dataclass
class JoinCandidate:
    """due: when to greet it next, in lived time; wait_s: before the time after that."""

    instance_id: str
    address: str
    due: float
    wait_s: float = FIRST_S


class JoinCandidates:
    """A queue of names; most: its bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queue: deque[JoinCandidate] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def renew(self, nodes: Iterable[TaggedNode], roster: MemberTable, now: float) -> None:
        """A whole look at EC2: these are named now, no others. Who left or died here is not greeted for a tag."""
        known = {named.instance_id: named for named in self._queue}
        self._queue = deque()
        for node in nodes:
            if node.instance_id == roster.own_id or node.state is NodeState.GONE:
                continue
            if node.instance_id in roster.by_id or node.instance_id in roster.tombstones:
                continue
            before = known.get(node.instance_id)
            if before is not None and before.address == node.peer_address:
                self._queue.append(before)
            elif len(self._queue) < self._most:
                self._queue.append(JoinCandidate(node.instance_id, node.peer_address, now))

    def unmet(self, roster: MemberTable) -> list[tuple[str, str]]:
        """(instance id, address) of all that are named and not members yet."""
        return [(named.instance_id, named.address) for named in self._queue if named.instance_id not in roster.by_id]

    def due(self, count: int, roster: MemberTable, now: float) -> list[str]:
        """Up to `count` addresses to greet now; each waits longer every time."""
        addresses: list[str] = []
        for _ in range(min(_LOOKED_AT, len(self._queue))):
            named = self._queue.popleft()
            if named.instance_id in roster.by_id:
                continue
            if named.due <= now and len(addresses) < count:
                addresses.append(named.address)
                named.due = now + named.wait_s
                named.wait_s = min(MAX_S, 2 * named.wait_s)
            self._queue.append(named)
        return addresses
