"""How far this node trusts itself: Lifeguard's local health.

A node that is slow takes its peers for slow. So every sign that the fault is its own makes it more patient: a probe
that not even the helpers could speak to, a suspicion of itself that it had to refute, a pause of its own.
"""

from __future__ import annotations

MAX_SCORE = 3
"""memberlist allows 7. When EC2 takes half a fleet, helpers are silent because they are gone, and a node that doubts
itself too much would probe once in eight seconds just then."""


class LocalHealth:
    """score: 0 is healthy."""

    def __init__(self) -> None:
        self.score = 0

    def decrease(self) -> None:
        """A probe succeeded."""
        self.score = max(0, self.score - 1)

    def increase(self) -> None:
        self.score = min(MAX_SCORE, self.score + 1)

    @property
    def timeout_multiplier(self) -> float:
        """What the periods and timeouts of this node's probes are multiplied with, from 1."""
        return 1.0 + self.score
