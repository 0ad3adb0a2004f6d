"""How long a suspect has to refute: the longest at first, less with every other node that suspects it, too.

From Lifeguard (Dadgar, Phillips, Currey 2018, "LHA-Suspicion"), as memberlist has it: one accuser may be wrong because
it is itself slow; several that found out for themselves are not. The least time is what a refutation takes to travel.
"""

from __future__ import annotations

import math

MAX_ACCUSERS = 4
"""Of one suspicion: the first, and as many confirmations as can still shorten it."""

_LEAST_S = 1.6
_LEAST_S_PER_DECADE = 0.6
_MOST_TIMES = 3.0


def least_s(nodes: int) -> float:
    """The least time of a suspicion in a fleet of that size: gossip takes time that grows with its logarithm."""
    return _LEAST_S + _LEAST_S_PER_DECADE * math.log10(max(1, nodes))


def most_s(nodes: int) -> float:
    """The time of a suspicion that nobody confirms."""
    return _MOST_TIMES * least_s(nodes)


def wanted_confirmations(nodes: int) -> int:
    """How many confirmations shorten a suspicion to its least: never more than there are nodes to give them."""
    return max(0, min(MAX_ACCUSERS - 1, nodes - 2))


def timeout_s(confirmations: int, wanted: int, least: float, most: float) -> float:
    """A suspicion's whole time, in seconds; the first confirmation shortens it most."""
    if confirmations >= wanted:
        return least
    return max(least, most - (most - least) * math.log(confirmations + 1) / math.log(wanted + 1))


class Suspicion:
    """One suspicion of one incarnation. began: in the machine's own time; nodes: in the fleet when it began."""

    __slots__ = ("_least", "_most", "_wanted", "accusers", "began")

    def __init__(self, accusers: frozenset[bytes], began: float, nodes: int) -> None:
        self.accusers = accusers
        self.began = began
        self._wanted = wanted_confirmations(nodes)
        self._least = least_s(nodes)
        self._most = most_s(nodes)

    @property
    def ends_at(self) -> float:
        return self.began + timeout_s(len(self.accusers) - 1, self._wanted, self._least, self._most)

    def confirm(self, accusers: frozenset[bytes]) -> bool:
        """Take in what others say. Returns whether any accuser is new and still matters."""
        if len(self.accusers) > self._wanted:
            return False
        together = self.accusers | accusers
        if len(together) == len(self.accusers):
            return False
        self.accusers = frozenset(sorted(together)[:MAX_ACCUSERS]) if len(together) > MAX_ACCUSERS else together
        return True
