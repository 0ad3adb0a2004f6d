"""Count two kinds of amounts over a sliding window of time."""

from __future__ import annotations

from collections import deque

MINUTE_S = 60.0
BUCKETS_PER_S = 4
BUCKET_S = 1.0 / BUCKETS_PER_S


class Window:
    """Amounts of the last `length_s` seconds, in buckets of BUCKET_S.

    A bucket leaves the window when all of it is older. So a sum is of at least the whole window, and of at most one
    bucket more: what is kept below a limit here is below it in every window of that length.

    Attributes:
        first: The sum of the first kind, as of the last `expire`; a correction may make it negative.
        second: The same of the second kind.
    """

    __slots__ = ("_buckets", "_length", "_newest", "first", "second")

    def __init__(self, length_s: float = MINUTE_S) -> None:
        self._length = round(length_s * BUCKETS_PER_S)
        self._newest: list[int] = [-1, 0, 0]
        self._buckets: deque[list[int]] = deque()
        self.first = 0
        self.second = 0

    def add(self, at: float, first: int, second: int = 0) -> None:
        """Add amounts at an instant, in the owner's seconds from 0 on; negative ones correct earlier ones."""
        newest, number = self._newest, int(at * BUCKETS_PER_S)
        if newest[0] < number or not self._buckets:
            newest = self._newest = [number, 0, 0]
            self._buckets.append(newest)
        newest[1] += first
        newest[2] += second
        self.first += first
        self.second += second

    def take_back(self, at: float, first: int, second: int = 0) -> None:
        """Remove what was added at an earlier instant, as far as the window still has it."""
        number = int(at * BUCKETS_PER_S)
        for bucket in reversed(self._buckets):
            if bucket[0] <= number:
                if bucket[0] == number:
                    bucket[1] -= first
                    bucket[2] -= second
                    self.first -= first
                    self.second -= second
                return

    def expire(self, at: float) -> None:
        """Let go what has left the window that ends at an instant."""
        buckets, oldest = self._buckets, int(at * BUCKETS_PER_S) - self._length
        while buckets and buckets[0][0] < oldest:
            _, first, second = buckets.popleft()
            self.first -= first
            self.second -= second

    def since(self, at: float, last_s: float) -> tuple[int, int]:
        """Return the sums of the last seconds before an instant, rounded up to whole buckets; for a short time."""
        oldest, first, second = int((at - last_s) * BUCKETS_PER_S), 0, 0
        for bucket in reversed(self._buckets):
            if bucket[0] < oldest:
                break
            first += bucket[1]
            second += bucket[2]
        return max(0, first), max(0, second)

    def frees_after_s(self, at: float, amount: int, kind: int) -> float | None:
        """Return the seconds until that much of a kind, 0 or 1, has left the window; None where the window has less."""
        for bucket in self._buckets:
            amount -= bucket[1 + kind]
            if amount <= 0:
                return self._leaves_after_s(at, bucket)
        return None

    def empties_after_s(self, at: float) -> float:
        """Return the seconds until the window is empty."""
        return self._leaves_after_s(at, self._buckets[-1]) if self._buckets else 0.0

    def _leaves_after_s(self, at: float, bucket: list[int]) -> float:
        return max(0.0, (bucket[0] + self._length + 1) * BUCKET_S - at)
