"""Decide when to run a full garbage collection and return memory to the system.

Python finds reference cycles by visiting every object, which is too expensive to do often (`agent.settle_memory`). So
it runs when there may be garbage: the process has grown by a part since the last time, or it is idle and larger than it
was then, or it is idle and was not at the last time, so that requests have freed memory since.
"""

from __future__ import annotations

from dataclasses import dataclass

GROWN_BYTES = 32 * 1024 * 1024
GROWN_PART = 0.25
IDLE_GROWN_BYTES = 4 * 1024 * 1024
AT_MOST_EVERY_S = 5.0


@dataclass
class MemoryUse:
    """The process's memory at the last collection."""

    after_bytes: int
    """The resident memory after it."""

    collected_at: float
    """When it was, in seconds."""

    was_busy: bool = False
    """True where requests were in flight then."""

    def reason(self, resident_bytes: int, busy: int, now: float) -> str | None:
        """Return the reason to collect now; None where there is none. busy: requests in flight."""
        grown = resident_bytes - self.after_bytes
        if now - self.collected_at < AT_MOST_EVERY_S:
            return None
        if grown > max(GROWN_BYTES, GROWN_PART * self.after_bytes):
            return f"grown by {grown >> 20} MiB"
        if busy == 0 and grown > IDLE_GROWN_BYTES:
            return f"idle, and grown by {grown >> 20} MiB"
        if busy == 0 and self.was_busy:
            return "idle, and not at the last time"
        return None

    def collected(self, resident_bytes: int, busy: int, now: float) -> None:
        """Record a collection. busy: requests in flight."""
        self.after_bytes, self.was_busy, self.collected_at = resident_bytes, busy > 0, now
