"""The agent's own clock: unix seconds that never jump.

The wall clock is read once, when the agent starts; from then on a monotonic clock counts. A step by NTP, or by a
person, in the middle of a drain or between two signatures therefore changes nothing. What is wrong at the start stays
wrong by the same amount: peers measure and allow for it (`core/node/peer_clocks`), and deadlines are counted from when
they were first seen (`core/node/lifecycle`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Where available, a clock that also counts the time of a hibernation."""


def _elapsed() -> float:
    return time.clock_gettime(_CLOCK_ID)


class SteadyClock:
    """Call it for unix seconds.

    wall: the clock that may jump, unix seconds.
    elapsed: seconds, monotonic.
    """

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = _elapsed) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._shift = wall() - elapsed()

    def __call__(self) -> float:
        """Return the time in unix seconds."""
        return self._elapsed() + self._shift

    def wall_ahead_s(self) -> float:
        """Return how far the wall clock is ahead of this one by now, in seconds; negative where it is behind."""
        return self._wall() - self()
