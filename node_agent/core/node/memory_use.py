"""When memory is looked through for what nobody holds, and given back to the system.

Python finds reference cycles by looking at every object, which costs too much to do often (`agent.settle_memory`). So
it is done when there may be something to find: the process has grown by a part since the last time, or nothing goes
on and it is larger than it was when it was idle last.
"""

from __future__ import annotations

from dataclasses import dataclass

GROWN_BYTES = 32 * 1024 * 1024
GROWN_PART = 0.25
IDLE_GROWN_BYTES = 4 * 1024 * 1024
AT_MOST_EVERY_S = 5.0


@dataclass
class MemoryUse:
    """after_bytes: the process's resident memory after it was looked through last; looked_at: when, in seconds."""

    after_bytes: int
    collected_at: float

    def reason(self, resident_bytes: int, busy: int, now: float) -> str | None:
        """Why to look through the memory now; None where there is no reason. busy: requests that are under way."""
        grown = resident_bytes - self.after_bytes
        if now - self.collected_at < AT_MOST_EVERY_S:
            return None
        if grown > max(GROWN_BYTES, GROWN_PART * self.after_bytes):
            return f"grown by {grown >> 20} MiB"
        if busy == 0 and grown > IDLE_GROWN_BYTES:
            return f"idle, and grown by {grown >> 20} MiB"
        return None

    def collected(self, resident_bytes: int, now: float) -> None:
        """It was looked through."""
        self.after_bytes, self.collected_at = resident_bytes, now
