"""The time during which this node ran; membership's timers use no other.

A node that was stopped for a minute, or whose clock was set forward by an hour, did not wait for an ack all that time:
it could not receive one. So a gap longer than the machine had to sleep, and a step back, do not count.
"""

from __future__ import annotations

MAX_LATE_S = 0.5
"""How late a busy node may be for its own timer before the rest counts as a pause."""


class ActiveClock:
    """Counts active time from readings of an external clock, which mostly goes forward.

    now: active seconds since the start.
    """

    def __init__(self, at: float) -> None:
        self.now = 0.0
        self._at = at

    def advance(self, at: float, due: float) -> float:
        """Advance to the external time `at`, in seconds.

        due: the active time at which the caller had to call.

        Returns:
            The pause that does not count as active time, in seconds; 0.0 where there was none.
        """
        gap_s = at - self._at
        self._at = at
        if gap_s <= 0:
            return 0.0
        room_s = max(0.0, due - self.now) + MAX_LATE_S
        pause_s = max(0.0, gap_s - room_s)
        self.now += gap_s - pause_s
        return pause_s

    def to_external(self, lived: float) -> float:
        """Convert an active time to the external clock, which shows it if no pause comes between."""
        return self._at + lived - self.now
