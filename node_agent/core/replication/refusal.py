"""Define why a replica does not accept a message of an owner.

A reason stays a value inside a process; `core/replication/protocol` encodes it between nodes.
"""

from __future__ import annotations

from enum import Enum


class RefusalReason(Enum):
    """Why a message is refused; the value is the body of REFUSED (`core/replication/protocol`)."""

    STALE = "stale"  # a newer owner has the stream
    GAP = "gap"  # records before these are missing
    FULL = "full"
    OVER_SHARE = "share"  # the stream's client has its share of the store already
    TOO_LARGE = "too-large"
    UNKNOWN = "unknown"  # no journal of the stream is stored in this epoch
    UNREADABLE = "unreadable"  # it cannot be decoded: of another version, or a fault of the owner

    def __str__(self) -> str:
        """Return the value, for logs."""
        return self.value


class ReplicaRefused(Exception):
    """A replica does not accept a message."""

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(reason)
        self.reason = reason
