"""A machine's timers: a heap, fired by its owner's clock."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

NEVER = float("inf")
ROUNDING_S = 1e-6
"""A caller that ticks at the very instant of `next_due` may come a rounding error early."""


class Timers:
    """Callbacks by time. None is ever cancelled: a callback that finds its work done does nothing."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def schedule(self, when: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Call `callback(*arguments)` in the first `fire` at or after `when`, an instant of the owner's clock."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, callback, arguments))

    @property
    def next_due(self) -> float:
        """The instant of the earliest callback, NEVER where there is none."""
        return self._heap[0][0] if self._heap else NEVER

    def fire(self, now: float) -> None:
        """Call what is due, in the order of its instants; what is scheduled meanwhile waits for the next call.

        Where one of them raises, which is a bug, the others stay due: the machine would else miss its own timers.
        """
        ready = deque[tuple[float, int, Callable[..., None], tuple[Any, ...]]]()
        while self._heap and self._heap[0][0] <= now + ROUNDING_S:
            ready.append(heapq.heappop(self._heap))
        try:
            while ready:
                _, _, callback, arguments = ready.popleft()
                callback(*arguments)
        finally:
            for timer in ready:
                heapq.heappush(self._heap, timer)
