"""Define why an exchange with an engine, a peer or IMDS is lost: a reason, for some reasons with details.

A `Loss` stays a value inside a process. Between nodes it is one line (`core/failure/report`), and metrics carry the
reason's value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from node_agent.contract.states import NodeState

MAX_TEXT_CHARS = 100
"""Kept of a text that a peer or an engine sent."""


class LossReason(Enum):
    """Why an exchange is lost; the value is the code in lines between nodes and in metrics."""

    # the connection
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    EOF = "eof"
    SILENCE = "silence"
    BROKEN = "broken"  # not HTTP, or a peer's answer that is not signed
    TOO_LARGE = "too-large"

    # this node ended it
    CLOSED = "closed"
    CLIENT_GONE = "client-gone"
    PEER_SILENT = "peer-silent"  # membership considers the peer dead
    NOT_A_PEER = "not-a-peer"  # no key is shared with the node

    # what the engine sent
    ABORT = "abort"  # as a finish_reason
    WRONG_MODEL = "wrong-model"
    DONE_WITHOUT_FINISH = "done-without-finish"
    END_WITHOUT_FINISH = "end-without-finish"
    MALFORMED_CHUNK = "malformed-chunk"
    ERROR_CHUNK = "error-chunk"
    EVENT_TOO_LARGE = "event-too-large"
    NO_STREAM = "no-stream"  # an answer that is no stream
    DIVERGED = "diverged"  # a continuation that differs from the delivered answer
    PIECE_WITHOUT_MARK = "piece-without-mark"  # a segment without a resume point

    # the engine's process
    ENGINE_DIED = "engine-died"  # by itself
    ENGINE_KILLED = "engine-killed"  # ended from outside: by an operator, systemd, the kernel's OOM killer
    ENGINE_STUCK = "engine-stuck"  # as its node detects (`core/engine/liveness`), which then kills it

    # the node
    HANDOFF = "handoff"
    STARTING = "starting"
    DRAINING = "draining"
    GONE = "gone"
    ENTRY_LOST = "entry-lost"  # the node that held the client's connection

    OTHER = "other"  # a later version's code, or an engine's own

    def __str__(self) -> str:
        """Return the code."""
        return self.value

    @property
    def reason(self) -> LossReason:
        """Itself: every Loss has a `reason`."""
        return self


DEATHS = frozenset({LossReason.ENGINE_DIED, LossReason.ENGINE_KILLED, LossReason.ENGINE_STUCK})


@dataclass(frozen=True, slots=True)
class Handoff:
    """The request was handed back to its entry."""

    target: str | None = None
    """The instance id of the node that has room; None where no node has."""

    def __str__(self) -> str:
        """Return a description for logs."""
        return LossReason.HANDOFF.value if self.target is None else f"{LossReason.HANDOFF} to {self.target}"

    @property
    def reason(self) -> LossReason:
        """HANDOFF."""
        return LossReason.HANDOFF


@dataclass(frozen=True, slots=True)
class EngineDeath:
    """An engine died before it had begun to answer the request."""

    reason: LossReason
    """One of DEATHS."""

    engine_number: str
    """Which of its node's engines it was, counted by that node."""

    alone: bool
    """Whether no other suspect was unanswered there."""

    def __str__(self) -> str:
        """Return a description for logs."""
        return f"{self.reason} {self.engine_number}"

    @property
    def crashed(self) -> bool:
        """Whether the engine ended by itself: it was neither stuck nor ended from outside."""
        return self.reason is LossReason.ENGINE_DIED


@dataclass(frozen=True, slots=True)
class UnknownLoss:
    """A loss for a reason that this version does not have."""

    text: str
    """As it was received, at most MAX_TEXT_CHARS; for logs only."""

    def __str__(self) -> str:
        """Return a description for logs."""
        return f"{LossReason.OTHER} ({self.text!r})"

    @property
    def reason(self) -> LossReason:
        """OTHER."""
        return LossReason.OTHER


Loss = LossReason | Handoff | EngineDeath | UnknownLoss
"""A reason without details is a Loss of its own."""


def loss_from_code(code: str) -> LossReason | UnknownLoss:
    """Return the reason with this code, an UnknownLoss where there is none."""
    try:
        return LossReason(code)
    except ValueError:
        return UnknownLoss(code[:MAX_TEXT_CHARS])


def not_serving(state: NodeState) -> LossReason:
    """Return why a node in this state does not accept a request. state: one where `takes_requests` is False."""
    return LossReason(state.value)
