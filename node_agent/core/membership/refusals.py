"""Contents of requests that the fleet refuses for a while (`core/failure/crash_suspects`), as membership tells of them.

A refusal is told like any rumour, and again now and then while it lasts, for nodes that came or were away meanwhile.
What is held is bounded in number and time, whatever peers say: the oldest makes room.
"""

from __future__ import annotations

MAX_REFUSALS = 256
MAX_DURATION_S = 3_600.0
REBROADCAST_INTERVAL_S = 5.0
MAX_REBROADCAST = 8
"""At most, each time; with 22 bytes each they leave room for other rumours in a datagram."""

_SLACK_S = 2.0
"""A refusal that ends this much later than the known one is a new one, and not the known one told slowly."""


class Refusals:
    """Instants are the owner's, in seconds."""

    def __init__(self, capacity: int = MAX_REFUSALS) -> None:
        self._capacity = capacity
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, content: bytes, remaining_s: float, now: float) -> bool:
        """Whether this is news."""
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
        """Some that last, each with the seconds that it has left. chance: uniform in [0, 1), for where to begin."""
        for content in [content for content, until in self._until.items() if until <= now]:
            del self._until[content]
        held = list(self._until.items())
        begin = int(draw * len(held))
        return [(content, until - now) for content, until in (held[begin:] + held[:begin])[:MAX_REBROADCAST]]
