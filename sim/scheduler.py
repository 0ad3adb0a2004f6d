"""Virtual time: runs callbacks in one order that depends on nothing but the seed."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Scheduler:
    """Callbacks by time. now: virtual seconds since the start; done: how many have run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, when: float, do: Callable[..., None], *arguments: Any) -> None:
        """Schedule a callback; those of the same instant run in the order in which they were scheduled."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, do, arguments))

    def after(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        """Schedule a callback `seconds` from now, as `at`."""
        self.at(self.now + seconds, do, *arguments)

    def every(self, seconds: float, do: Callable[..., None], *arguments: Any) -> None:
        """Schedule a callback again and again, for the first time after `seconds`."""

        def again() -> None:
            do(*arguments)
            self.after(seconds, again)

        self.after(seconds, again)

    def run_until(self, when: float) -> None:
        """Run everything up to then, that instant included."""
        heap = self._heap
        while heap and heap[0][0] <= when:
            self.now, _, do, arguments = heapq.heappop(heap)
            self.done += 1
            do(*arguments)
        self.now = max(self.now, when)
