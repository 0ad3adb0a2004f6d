"""The states of a node, in the one order in which they may be left behind."""

from __future__ import annotations

from enum import StrEnum


class NodeState(StrEnum):
    """A node's place in its life; the value is what tags, records and peers carry."""

    STARTING = "starting"
    READY = "ready"
    AT_RISK = "at-risk"
    DRAINING = "draining"
    GONE = "gone"

    @property
    def rank(self) -> int:
        """Position in the only allowed direction: a writer may raise a record's rank, never lower it."""
        return _ORDER.index(self)

    @property
    def takes_requests(self) -> bool:
        """Whether peers may choose this node for a new request (at-risk: last, but they may)."""
        return self in (NodeState.READY, NodeState.AT_RISK)


_ORDER = tuple(NodeState)
