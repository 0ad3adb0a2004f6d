"""How far this node trusts its own probes: Lifeguard's local health.

A slow node takes its peers for slow. So every sign that the fault is its own lengthens its timeouts: a probe that not
even the indirect probers answered, a suspicion of itself that it had to refute, a pause of its own.
"""

from __future__ import annotations

MAX_SCORE = 3
"""memberlist allows 7. When EC2 takes half a fleet, indirect probers are silent because they are gone, and a node with
a higher score would probe once in eight seconds just then."""


class LocalHealth:
    """Holds the score; 0 is healthy."""

    def __init__(self) -> None:
        self.score = 0

    def decrease(self) -> None:
        """Count a probe that succeeded."""
        self.score = max(0, self.score - 1)

    def increase(self) -> None:
        """Count a sign that this node is slow."""
        self.score = min(MAX_SCORE, self.score + 1)

    @property
    def timeout_multiplier(self) -> float:
        """The factor of this node's probe intervals and timeouts, at least 1."""
        return 1.0 + self.score
