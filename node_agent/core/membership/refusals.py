"""Contents of requests that the fleet refuses for a while (`core/failure/crash_suspects`).

A refusal is broadcast like any update, and again now and then while it lasts, for nodes that came or were away
meanwhile. The table is bounded in number and time, whatever peers send: the oldest entry makes room.
"""

from __future__ import annotations

MAX_REFUSALS = 256
MAX_DURATION_S = 3_600.0
REBROADCAST_INTERVAL_S = 5.0
MAX_REBROADCAST = 8
"""At most, each time; with 22 bytes each they leave room for other updates in a datagram."""

_SLACK_S = 2.0
"""A refusal that ends this much later than the known one is new; otherwise it is the known one, received late."""


class Refusals:
    """Refused contents and when each ends; instants are the owner's, in seconds."""

    def __init__(self, capacity: int = MAX_REFUSALS) -> None:
        self._capacity = capacity
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, content: bytes, remaining_s: float, now: float) -> bool:
        """Add a refusal; return whether it is new."""
        until = now + min(max(remaining_s, 0.0), MAX_DURATION_S)
        known = self._until.get(content, now)
        if until <= known + _SLACK_S:
            return False
        self._until.pop(content, None)
        if len(self._until) >= self._capacity:
            del self._until[next(iter(self._until))]
        self._until[content] = until
        return True

    def sample(self, now: float, draw: float) -> list[tuple[bytes, float]]:
        """Return some that last, each with the seconds that remain. draw: uniform in [0, 1), where to begin."""
        for content in [content for content, until in self._until.items() if until <= now]:
            del self._until[content]
        held = list(self._until.items())
        begin = int(draw * len(held))
        return [(content, until - now) for content, until in (held[begin:] + held[:begin])[:MAX_REBROADCAST]]
