"""Decide when a client is too slow: at sending a request, or at reading what it is sent.

Rules kept here:

* a request has a bounded time to arrive, and within each `stalled_s` a minimum of its body has to come;
* a client that lags has to read a minimum within a bounded time; what is added to its output is no progress.
"""

from __future__ import annotations

from dataclasses import dataclass

READ_PROGRESS_BYTES = 48 * 1024
"""What a lagging client has to read in time: from a transport's high-water mark to its low one."""


@dataclass(slots=True)
class RequestArrival:
    """A request that is not complete."""

    began_at: float
    """When its first bytes arrived, or when the client was permitted to send its body; in seconds."""

    _progress_at: float | None = None
    _progress_bytes: int = 0

    def is_overdue(self, now: float, body_bytes: int, *, max_s: float, stalled_s: float, stalled_bytes: int) -> bool:
        """Return whether the request takes too long, or its body arrives too slowly.

        Args:
            now: in seconds.
            body_bytes: of its body, so far.
            max_s: how long what is arriving may take: the head, or the whole request.
            stalled_s: within what time `stalled_bytes` more of the body have to arrive.
            stalled_bytes: see `stalled_s`.
        """
        if now - self.began_at > max_s:
            return True
        since = self.began_at if self._progress_at is None else self._progress_at
        if now - since <= stalled_s:
            return False
        received = body_bytes - self._progress_bytes
        self._progress_at, self._progress_bytes = now, body_bytes
        return received < stalled_bytes


@dataclass(slots=True)
class UnreadOutput:
    """What lies in the buffer of a client that lags."""

    since: float
    """When the client read enough for the last time, or began to lag; in seconds."""

    size: int
    """Bytes: the most since then."""

    def is_overdue(self, now: float, size: int, max_s: float) -> bool:
        """Return whether the client has read too little for more than `max_s`. size: of the buffer now, in bytes."""
        if size <= self.size - READ_PROGRESS_BYTES:
            self.since, self.size = now, size
        else:
            self.size = max(self.size, size)
        return now - self.since > max_s
