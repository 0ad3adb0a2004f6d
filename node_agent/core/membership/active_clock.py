"""The time that this node has lived through, which is the only time its timers know.

A node that was stopped for a minute, or whose clock was set forward by an hour, did not wait for an answer all that
time: it was not there to hear one. So a gap longer than the machine had to sleep, and a step back, do not count.
"""

from __future__ import annotations

MAX_LATE_S = 0.5
"""How late a busy node may be for its own timer before the rest counts as a pause."""


class ActiveClock:
    """now: seconds lived since the start; at: the caller's clock, any clock that mostly goes forward."""

    def __init__(self, at: float) -> None:
        self.now = 0.0
        self._at = at

    def advance(self, at: float, due: float) -> float:
        """Go on to the caller's `at`; due: when, in lived time, it had to come. Returns the pause left out, seconds."""
        gap_s = at - self._at
        self._at = at
        if gap_s <= 0:
            return 0.0
        room_s = max(0.0, due - self.now) + MAX_LATE_S
        pause_s = max(0.0, gap_s - room_s)
        self.now += gap_s - pause_s
        return pause_s

    def to_external(self, lived: float) -> float:
        """A lived time as the caller's clock will show it, if it goes on without a pause."""
        return self._at + lived - self.now
