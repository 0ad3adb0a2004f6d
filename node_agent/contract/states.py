"""The states of a node, in the one order in which it passes them."""

from __future__ import annotations

from enum import StrEnum


class NodeState(StrEnum):
    """A node's state; tags, records and peers carry the value."""

    STARTING = "starting"
    READY = "ready"
    AT_RISK = "at-risk"
    DRAINING = "draining"
    GONE = "gone"

    @property
    def rank(self) -> int:
        """The position in the only allowed direction: a writer may raise a record's rank, never lower it."""
        return _ORDER.index(self)

    @property
    def takes_requests(self) -> bool:
        """True where peers may choose this node for a new request (an at-risk node last)."""
        return self in (NodeState.READY, NodeState.AT_RISK)


_ORDER = tuple(NodeState)
