"""Schedule how often a node reads the fleet's tags: EC2 throttles the calls of a whole account, not those of a node.

For Describe* with a filter EC2 has a bucket of 100 calls that refills by 20 a second (EC2's "Request throttling"). A
fleet may use SHARE of the refill, however large it is. So the more nodes there are, the less often each reads; one read
is enough for all, because a node that it finds is contacted and announced by gossip. A failed call changes only the
time of the next one.
"""

from __future__ import annotations

import math

REFILL_PER_S = 20.0
SHARE = 0.15
"""The fleet's part of the refill; the rest leaves room for restarts and for people."""

MIN_INTERVAL_S = 30.0
FIRST_READ_WITHIN_S = 3.0
"""Nodes that boot together read one after another within that time, so that a hundred leave the bucket half full."""

FIRST_READ_CALLS = 1
"""The first read is one page, however large the fleet: the nodes on it announce all others."""

UNVOUCHED_FIRST_S = 0.5
"""The first wait of a node that has a member which EC2 has not vouched for yet."""

ALONE_FIRST_S = 2.0
"""The first wait of a node that found no other: its peers may be booting, too."""

PAGE_NODES = 1_000
"""The most nodes that one call returns; more take more calls."""

MAX_BACKED_OFF = 16.0


def calls_needed(nodes: int) -> int:
    """Return how many calls one read takes."""
    return max(1, math.ceil(nodes / PAGE_NODES))


def interval_s(nodes: int) -> float:
    """Return the mean time between two reads of one node in a fleet of that size, in seconds."""
    return max(MIN_INTERVAL_S, nodes * calls_needed(nodes) / (SHARE * REFILL_PER_S))


class DiscoverySchedule:
    """Schedules the reads of one node. chance: uniform in [0, 1), drawn for each call."""

    def __init__(self, first_within_s: float = FIRST_READ_WITHIN_S) -> None:
        self._first_within_s = first_within_s
        self._factor = 1.0
        self._alone_s = ALONE_FIRST_S
        self._unvouched_s = UNVOUCHED_FIRST_S

    def first_delay_s(self, chance: float) -> float:
        """Return the wait before the first read, in seconds."""
        return self._first_within_s * chance

    def next_delay_s(self, nodes: int, chance: float) -> float:
        """Return the wait after a read that succeeded, in seconds. nodes: in the fleet, this one included."""
        self._factor = max(1.0, self._factor / 2)
        if nodes <= 1:
            wait_s, self._alone_s = self._alone_s, min(MIN_INTERVAL_S, 2 * self._alone_s)
            return _jittered(wait_s * self._factor, chance)
        self._alone_s = ALONE_FIRST_S
        return _jittered(interval_s(nodes) * self._factor, chance)

    def unvouched_delay_s(self, nodes: int, chance: float) -> float:
        """Return the longest wait from now on, in seconds, while a member waits until EC2 vouches for it.

        Twice as long each time, up to the usual wait, and never so short that all nodes together use more than SHARE:
        a node that EC2 never vouches for costs no more calls than the usual ones.
        """
        usual_s = interval_s(nodes)
        least_s = usual_s if usual_s > MIN_INTERVAL_S else nodes * calls_needed(nodes) / (SHARE * REFILL_PER_S)
        wait_s, self._unvouched_s = max(self._unvouched_s, least_s), min(usual_s, 2 * self._unvouched_s)
        return _jittered(min(usual_s, wait_s) * self._factor, chance)

    def all_vouched(self) -> None:
        """Record that EC2 vouches for all members: the next one that is new is looked up soon."""
        self._unvouched_s = UNVOUCHED_FIRST_S

    def retry_delay_s(self, nodes: int, chance: float) -> float:
        """Return the wait after a read that EC2 throttled (RequestLimitExceeded) or did not answer, in seconds.

        Twice as long each time, up to MAX_BACKED_OFF times the usual, and back by halves: all nodes of a throttled
        fleet slow down together, and do not speed up together either.
        """
        self._factor = min(MAX_BACKED_OFF, 2 * self._factor)
        usual_s = interval_s(nodes) if nodes > 1 else self._alone_s
        return _jittered(usual_s * self._factor, chance)


def _jittered(seconds: float, chance: float) -> float:
    """Jitter a wait by half to both sides, so that nodes that booted together do not read together."""
    return seconds * (0.5 + chance)
