"""How many log lines of one kind pass, and how many were left out since the last that did.

Much of what a node logs is caused by somebody else: a peer that it refuses, a client that is cut off. Without a bound,
whoever does that a thousand times a second fills the disk, and hides what else there is to read.

Each kind of line has a bucket of `burst` lines that fills with `per_s` lines a second. Kinds are few, as a rule one for
each place in the code that logs; those that were not seen for longest are forgotten beyond `most_kinds`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Bucket:
    """lines: that may pass now; at: when that was so; left_out: since the last line that passed."""

    lines: float
    at: float
    suppressed: int = 0


@dataclass
class LogLimit:
    """See the module."""

    burst: float = 200.0
    per_s: float = 2.0
    max_kinds: int = 1_024
    _buckets: OrderedDict[Hashable, _Bucket] = field(default_factory=OrderedDict)

    def suppressed_before(self, kind: Hashable, now: float) -> int | None:
        """None where a line of this kind is to be left out; else how many were since the last that passed.

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
        left_out, bucket.suppressed = bucket.suppressed, 0
        return left_out
