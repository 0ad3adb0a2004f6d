"""How long a suspect has to refute: the maximum at first, less with every other node that suspects it, too.

From Lifeguard (Dadgar, Phillips, Currey 2018, "LHA-Suspicion"), as memberlist has it: one suspector may be wrong
because it is itself slow; several that each found no answer are not. The minimum is the time that a refutation travels.
"""

from __future__ import annotations

import math

MAX_SUSPECTORS = 4
"""Of one suspicion: the first, and as many confirmations as can still shorten it."""

_MIN_TIMEOUT_S = 1.6
_MIN_TIMEOUT_S_PER_DECADE = 0.6
_MAX_FACTOR = 3.0


def min_timeout_s(nodes: int) -> float:
    """Return the shortest timeout in a fleet of that size: gossip takes time that grows with its logarithm."""
    return _MIN_TIMEOUT_S + _MIN_TIMEOUT_S_PER_DECADE * math.log10(max(1, nodes))


def max_timeout_s(nodes: int) -> float:
    """Return the timeout of a suspicion that no other node confirms."""
    return _MAX_FACTOR * min_timeout_s(nodes)


def target_confirmations(nodes: int) -> int:
    """Return how many confirmations shorten a suspicion to its minimum: never more than other nodes can give."""
    return max(0, min(MAX_SUSPECTORS - 1, nodes - 2))


def timeout_s(confirmations: int, target: int, minimum: float, maximum: float) -> float:
    """Return a suspicion's whole timeout, in seconds; the first confirmation shortens it most."""
    if confirmations >= target:
        return minimum
    return max(minimum, maximum - (maximum - minimum) * math.log(confirmations + 1) / math.log(target + 1))


class Suspicion:
    """One suspicion of one incarnation. began: in active time; nodes: in the fleet when it began."""

    __slots__ = ("_maximum", "_minimum", "_target", "began", "suspectors")

    def __init__(self, suspectors: frozenset[bytes], began: float, nodes: int) -> None:
        self.suspectors = suspectors
        self.began = began
        self._target = target_confirmations(nodes)
        self._minimum = min_timeout_s(nodes)
        self._maximum = max_timeout_s(nodes)

    @property
    def ends_at(self) -> float:
        """When it times out, in active time; a confirmation makes that earlier."""
        return self.began + timeout_s(len(self.suspectors) - 1, self._target, self._minimum, self._maximum)

    def confirm(self, suspectors: frozenset[bytes]) -> bool:
        """Add suspectors; return whether one is new and still matters."""
        if len(self.suspectors) > self._target:
            return False
        together = self.suspectors | suspectors
        if len(together) == len(self.suspectors):
            return False
        self.suspectors = frozenset(sorted(together)[:MAX_SUSPECTORS]) if len(together) > MAX_SUSPECTORS else together
        return True
