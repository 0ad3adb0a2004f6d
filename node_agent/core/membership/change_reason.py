"""Define why a node changes its entry of a peer, for its log: a cause, or an end of a suspicion with a count.

A reason stays a value until it is logged (`runtime/node/gossip`); nothing is decided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """Why a member is new, or has another liveness or state; the value is the text in logs."""

    ANSWERED = "answered"  # a probe of this node
    SILENT = "silent"  # it did not answer a probe
    REFUSED = "refused"  # it refused a connection
    GOSSIP = "gossip"  # another node's update
    COMPARISON = "comparison"  # a sync of the member tables
    LEFT = "it left"
    VOUCHED = "EC2 vouches for it"
    SHUT_OUT = "it was shut out"

    def __str__(self) -> str:
        """Return the text in logs."""
        return self.value


@dataclass(frozen=True, slots=True)
class NotRefuted:
    """A suspicion was not refuted in time."""

    suspectors: int
    """The number of nodes that had it."""

    def __str__(self) -> str:
        """Return the text in logs."""
        return f"not refuted, {self.suspectors} suspectors"


ChangeReason = Cause | NotRefuted
