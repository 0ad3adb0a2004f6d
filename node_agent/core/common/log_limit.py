"""Limit the rate of log lines of one kind, and count the suppressed ones.

Much of a node's log is caused by other parties: a peer that it refuses, a client that is cut off. Without a bound, a
party that does that a thousand times a second fills the disk, and hides the other lines.

Each kind of line has a bucket of `burst` lines that fills with `per_s` lines a second. Kinds are few, usually one for
each place in the code that logs; beyond `max_kinds` the least recently used are removed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Bucket:
    """A token bucket. lines: that may be logged at `at`; suppressed: since the last line that was logged."""

    lines: float
    at: float
    suppressed: int = 0


@dataclass
class LogLimit:
    """The buckets of all kinds."""

    burst: float = 200.0
    per_s: float = 2.0
    max_kinds: int = 1_024
    _buckets: OrderedDict[Hashable, _Bucket] = field(default_factory=OrderedDict)

    def suppressed_before(self, kind: Hashable, now: float) -> int | None:
        """Return None where a line of this kind is to be suppressed; else how many were since the last one logged.

        now: seconds of any clock that does not go back.
        """
        bucket = self._buckets.get(kind)
        if bucket is None:
            bucket = self._buckets[kind] = _Bucket(self.burst, now)
            if len(self._buckets) > self.max_kinds:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(kind)
        bucket.lines = min(self.burst, bucket.lines + (now - bucket.at) * self.per_s)
        bucket.at = now
        if bucket.lines < 1.0:
            bucket.suppressed += 1
            return None
        bucket.lines -= 1.0
        suppressed, bucket.suppressed = bucket.suppressed, 0
        return suppressed
