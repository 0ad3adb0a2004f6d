"""Find what changed in a fleet between two looks at the table of members, one after another.

A look costs nothing while the view of the members is the same value; else it compares two states for each node. What
changes back between two looks is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Liveness, NodeStatus


class NodeChange(StrEnum):
    """What happened to a node."""

    JOINED = "joined"
    READY = "ready"
    STARTING = "starting"
    AT_RISK = "at-risk"
    DRAINING = "draining"
    LEFT = "left"
    SUSPECT = "suspect"
    DEAD = "dead"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A change of one node. state: before it, None for a node that is new."""

    status: NodeStatus
    change: NodeChange
    state: NodeState | None


_OF_STATE = {
    NodeState.STARTING: NodeChange.STARTING,
    NodeState.READY: NodeChange.READY,
    NodeState.AT_RISK: NodeChange.AT_RISK,
    NodeState.DRAINING: NodeChange.DRAINING,
    NodeState.GONE: NodeChange.LEFT,
}
_OF_LIVENESS = {
    Liveness.SUSPECT: NodeChange.SUSPECT,
    Liveness.DEAD: NodeChange.DEAD,
    Liveness.LEFT: NodeChange.LEFT,
}

Look = Iterable[tuple[NodeStatus, Liveness]]
_Known = tuple[NodeState, Liveness]


class FleetChanges:
    """The nodes as of the last look.

    `changed_at` has unix seconds of each node's last change, by instance id.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._has_looked = False
        self.changed_at: dict[str, float] = {}

    def look(self, nodes: Look, at: float) -> list[NodeChanged]:
        """Compare the nodes with the last look.

        Args:
            nodes: all nodes that are known, with their liveness; those that are missing are forgotten.
            at: unix seconds.

        Returns:
            What changed; nothing for the first look, since nobody knows since when the nodes are as they are.
        """
        found = {status.instance_id: (status, liveness) for status, liveness in nodes}
        changes = []
        for instance_id, (status, liveness) in found.items():
            before, now = self._known.get(instance_id), (status.state, liveness)
            if before == now:
                continue
            self.changed_at[instance_id] = at
            change = _change(before, now)
            if change is not None and self._has_looked:
                changes.append(NodeChanged(status, change, before[0] if before else None))
        for instance_id in self._known.keys() - found.keys():
            self.changed_at.pop(instance_id, None)
        self._known = {instance_id: (status.state, liveness) for instance_id, (status, liveness) in found.items()}
        self._has_looked = True
        return changes


def _change(before: _Known | None, now: _Known) -> NodeChange | None:
    """Return what a change means; None for the second step of an end that was seen."""
    state, liveness = now
    if liveness is not Liveness.ALIVE:
        if before is not None and before[1] is liveness:
            return None
        was_over = before is not None and before[0] is NodeState.GONE
        return None if was_over and liveness is Liveness.LEFT else _OF_LIVENESS[liveness]
    if before is None:
        return NodeChange.JOINED
    if before[1] is not Liveness.ALIVE and before[0] is state:
        return NodeChange.RETURNED
    return _OF_STATE[state]
