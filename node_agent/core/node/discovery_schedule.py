"""How often a node reads the fleet's tags: EC2 counts the calls of a whole account, not those of a node.

For Describe* with a filter EC2 has a bucket of 100 calls that gets 20 a second (EC2's "Request throttling"). A fleet
may use SHARE of what comes in, however large it is. So each node looks the more seldom the more nodes there are; one
look is enough for all, because whoever it finds is greeted and told of by gossip. A call that fails changes nothing but
the time of the next one.
"""

from __future__ import annotations

import math

REFILL_PER_S = 20.0
SHARE = 0.15
"""Of the refill, for a whole fleet; the fifth that it may use leaves room for restarts and for people."""

MIN_INTERVAL_S = 30.0
FIRST_READ_WITHIN_S = 3.0
"""Nodes that boot together look one after another within that time, so that a hundred leave the bucket half full."""

FIRST_READ_CALLS = 1
"""The first look is one page, however large the fleet: whoever is on it tells of all others."""

ALONE_FIRST_S = 2.0
"""Between the first looks of a node that found nobody: its peers may be booting, too."""

PAGE_NODES = 1_000
"""What one call returns at most; more takes more calls."""

MAX_BACKED_OFF = 16.0


def calls_needed(nodes: int) -> int:
    """How many calls one look takes."""
    return max(1, math.ceil(nodes / PAGE_NODES))


def interval_s(nodes: int) -> float:
    """The mean time between two looks of one node in a fleet of that size."""
    return max(MIN_INTERVAL_S, nodes * calls_needed(nodes) / (SHARE * REFILL_PER_S))


class DiscoverySchedule:
    """When one node looks. chance: uniform in [0, 1), another one each time; first_within_s: FIRST_LOOK_WITHIN_S."""

    def __init__(self, first_within_s: float = FIRST_READ_WITHIN_S) -> None:
        self._first_within_s = first_within_s
        self._factor = 1.0
        self._alone_s = ALONE_FIRST_S

    def first_delay_s(self, chance: float) -> float:
        """How long to wait before the first look."""
        return self._first_within_s * chance

    def next_delay_s(self, nodes: int, chance: float) -> float:
        """How long to wait after a look that succeeded. nodes: that there are, this one included."""
        self._factor = max(1.0, self._factor / 2)
        if nodes <= 1:
            wait_s, self._alone_s = self._alone_s, min(MIN_INTERVAL_S, 2 * self._alone_s)
            return _jittered(wait_s * self._factor, chance)
        self._alone_s = ALONE_FIRST_S
        return _jittered(interval_s(nodes) * self._factor, chance)

    def retry_delay_s(self, nodes: int, chance: float) -> float:
        """How long to wait after one that failed, because EC2 throttled it (RequestLimitExceeded) or did not answer.

        Twice as long each time, up to MAX_BACKED_OFF times the usual, and back by halves: all nodes of a throttled
        fleet slow down together, and do not hurry back together either.
        """
        self._factor = min(MAX_BACKED_OFF, 2 * self._factor)
        usual_s = interval_s(nodes) if nodes > 1 else self._alone_s
        return _jittered(usual_s * self._factor, chance)


def _jittered(seconds: float, chance: float) -> float:
    """By half to both sides, so that nodes that began together do not stay together."""
    return seconds * (0.5 + chance)
