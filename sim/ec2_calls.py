"""Adds up the EC2 calls of a whole fleet against the account's token buckets.

How often its nodes read tags, and what a hundred nodes that boot in the same instant leave of a burst. The real
`core/node/discovery_schedule`; EC2 is the buckets alone.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from node_agent.core.node.discovery_schedule import (
    FIRST_READ_CALLS,
    FIRST_READ_WITHIN_S,
    REFILL_PER_S,
    DiscoverySchedule,
    calls_needed,
    interval_s,
)

BURST = 100.0
"""Of Describe* with a filter, and of CreateTags (EC2's "Request throttling", as REFILL_PER_S is)."""

TAGGINGS_PER_S = 10.0
"""What the bucket of CreateTags gets."""

BOOTING = 100
BOOT_S = 60.0
ROUNDS = 20
"""How often, on average, each node looks while a fleet at rest is watched."""


class Bucket:
    """EC2's: so many calls at once, and so many more a second. lowest: what was left at the worst moment."""

    def __init__(self, refill_per_s: float = REFILL_PER_S) -> None:
        self.level = self.lowest = BURST
        self.refused = 0
        self._refill_per_s = refill_per_s
        self._at = 0.0

    def call(self, at: float, calls: int) -> bool:
        """Whether so many calls pass. at: seconds, never less than before."""
        self.level = min(BURST, self.level + self._refill_per_s * (at - self._at))
        self._at = at
        if self.level < calls:
            self.refused += 1
            return False
        self.level -= calls
        self.lowest = min(self.lowest, self.level)
        return True


@dataclass
class Looks:
    """calls: the instants of all that passed, in seconds; reads, taggings: the buckets that they came from."""

    calls: list[float] = field(default_factory=list)
    reads: Bucket = field(default_factory=Bucket)
    taggings: Bucket = field(default_factory=lambda: Bucket(TAGGINGS_PER_S))


def looks(nodes: int, seconds: float, booting: int, seed: int) -> Looks:
    """A fleet's calls over some time, of which so many nodes boot at once at the start, each of which tags itself."""
    rng = random.Random(f"EC2 calls {seed}").random  # noqa: S311 # a simulation
    found = Looks()
    reads = [DiscoverySchedule() for _ in range(nodes)]
    heap = [
        (node.first_delay_s(rng()) if number < booting else interval_s(nodes) * rng(), number)
        for number, node in enumerate(reads)
    ]
    heapq.heapify(heap)
    have_looked = set(range(booting, nodes))
    while heap[0][0] < seconds:
        at, number = heapq.heappop(heap)
        is_first = number not in have_looked
        calls = FIRST_READ_CALLS if is_first else calls_needed(nodes)
        if found.reads.call(at, calls) and (not is_first or found.taggings.call(at, 1)):
            have_looked.add(number)
            found.calls += [at] * calls
            wait_s = reads[number].next_delay_s(nodes, rng())
        else:
            wait_s = reads[number].retry_delay_s(nodes, rng())
        heapq.heappush(heap, (at + wait_s, number))
    return found


def measure(nodes: int, seed: int) -> dict[str, Any]:
    """A fleet of so many at rest, and a hundred that boot into it at once."""
    seconds = ROUNDS * interval_s(nodes)
    rest = looks(nodes, seconds, 0, seed)
    boot = looks(nodes + BOOTING, BOOT_S, BOOTING, seed)
    return {
        "interval_s": round(interval_s(nodes), 1),
        "calls_s": round(len(rest.calls) / seconds, 3),
        "share_of_refill": round(len(rest.calls) / seconds / REFILL_PER_S, 4),
        "throttled": rest.reads.refused,
        f"{BOOTING}_boot": {
            "calls_in_first_s": sum(at <= FIRST_READ_WITHIN_S for at in boot.calls),
            "bucket_left": round(boot.reads.lowest, 1),
            "tag_bucket_left": round(boot.taggings.lowest, 1),
            "throttled": boot.reads.refused + boot.taggings.refused,
        },
    }
