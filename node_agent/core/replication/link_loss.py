"""Define why a connection to a replica is lost, and what that says about its node."""

from __future__ import annotations

from enum import Enum

from node_agent.core.failure.loss import LossReason


class LinkLossReason(Enum):
    """Why a connection to a replica is lost; the value is a metric's label."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    EOF = "eof"
    BROKEN = "broken"  # no valid handshake, or not the protocol behind it
    SILENT = "silent"  # no answer to the handshake
    TURNED_AWAY = "turned-away"  # it is alive, and does not accept this node as a peer
    TOO_SLOW = "too-slow"  # it does not read what is sent
    UNKNOWN = "unknown"  # not in the table of members any more

    def __str__(self) -> str:
        """Return the value, for logs."""
        return self.value

    @property
    def loss_reason(self) -> LossReason:
        """The reason for which an exchange with the node would be lost; OTHER where only replication has it."""
        return _LOSS_REASONS.get(self, LossReason.OTHER)


_LOSS_REASONS = {
    LinkLossReason.REFUSED: LossReason.REFUSED,
    LinkLossReason.UNREACHABLE: LossReason.UNREACHABLE,
    LinkLossReason.RESET: LossReason.RESET,
    LinkLossReason.EOF: LossReason.EOF,
    LinkLossReason.BROKEN: LossReason.BROKEN,
}
