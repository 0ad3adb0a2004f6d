"""Define the verdict on a failure: who sent it, whose fault it is, what follows, and whether it counts at the breaker.

`core/failure/attribution` returns verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from node_agent.core.failure.loss import DEATHS

_DEATH_CODES = frozenset(reason.value for reason in DEATHS)


class Origin(Enum):
    """The party that sent the failure."""

    ENGINE = "engine"
    PEER = "peer"


class Fault(Enum):
    """The party at fault."""

    CLIENT = "client"
    ENGINE = "engine"
    PEER = "peer"
    NETWORK = "network"
    OURS = "ours"


class NextStep(Enum):
    """What follows for the request."""

    FINAL = "final"  # the client receives this answer unchanged
    ONCE_MORE = "once-more"  # one more engine; where it fails alike, the client receives its answer
    ELSEWHERE = "elsewhere"  # another engine, within the bound on engines


class BreakerEffect(Enum):
    """The failure's effect on the node's breaker."""

    YES = "counts"
    NO = "-"
    IN_DOUBT = "doubt"  # once another engine has answered the same request


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision for one failure. code: one of few, for metrics; reason: for people."""

    fault: Fault
    next: NextStep
    breaker: BreakerEffect
    code: str
    reason: str

    @property
    def is_death(self) -> bool:
        """True where the engine's process ended, for any reason, or is killed because it is stuck."""
        return self.code in _DEATH_CODES
