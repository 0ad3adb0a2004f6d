"""Measure the pace at which one response is read, without the pauses of a client that does not read. Pure.

Instants are in seconds of one clock; 0 stands for "never".
"""

from __future__ import annotations

_SAMPLE_READS = 4
"""Reads that a response needs before its pace counts."""


class ReadPace:
    """The pace of one response. is_paused: whether reading is paused now."""

    def __init__(self) -> None:
        self.is_paused = False
        self._paused_at = self._resumed_at = self._paused_s = 0.0

    def pause(self, now: float) -> None:
        """Record that reading stops; a second time changes nothing."""
        if not self.is_paused:
            self.is_paused, self._paused_at = True, now

    def resume(self, now: float, first_read_at: float) -> None:
        """Record that reading continues. first_read_at: of the response; the wait before it is no part of the pace."""
        if not self.is_paused:
            return
        self.is_paused, self._resumed_at = False, now
        if first_read_at:
            self._paused_s += now - max(self._paused_at, first_read_at)

    def time_per_read_s(self, reads: int, first_read_at: float, last_read_at: float) -> float | None:
        """Return the mean time between two reads, in seconds; None after too few."""
        if reads < _SAMPLE_READS:
            return None
        return max(0.0, last_read_at - first_read_at - self._paused_s) / (reads - 1)

    def silent_from(self, last_read_at: float) -> float:
        """Return since when the response is silent: the silence of a pause is not the sender's. 0: nothing was sent.

        last_read_at: of the response; before its first read the instant at which the request was sent.
        """
        return last_read_at and max(last_read_at, self._resumed_at)
