"""What a node still has to send: updates, which must reach every node; loads and usages of keys, which may lag.

Rules kept here (SWIM section 4.1; memberlist's TransmitLimitedQueue):

* one update for each subject: a newer one replaces the older;
* each is sent a limited number of times, which grows with the logarithm of the fleet; those sent least go first;
* the queues are bounded: at the bound the update that was sent most often is dropped, and the oldest load or usage.
"""

from __future__ import annotations

import math
from itertools import islice

from node_agent.core.membership.wire.loads import LOAD_BYTES
from node_agent.core.membership.wire.updates import UPDATE_HEADER_BYTES, is_intro, write_alive, write_intro, write_loads
from node_agent.core.node.status import NodeStatus

MAX_UPDATES = 4_096
MAX_LOADS_PER_UPDATE = 12
"""With that many the loads of a small fleet fit in each message, and those of a large one cost no more."""

LOAD_TRANSMITS = 3
"""How often a node forwards a load: it reaches 19 of 20 nodes, and the next load follows soon."""

USAGE_TRANSMITS = 4
"""How often a node forwards a report of keys' usage: it reaches 49 of 50 nodes, and the next one follows soon."""

MIN_USAGE_BYTES = 37
"""Of a report of one key."""

_TRANSMITS = 3
_TRANSMITS_PER_DECADE = 3


def retransmit_limit(nodes: int) -> int:
    """Return how often each node sends an update, in a fleet of that size.

    If each node that receives an update sends it k times, it misses exp(-k) of them: fewer than one node in a hundred
    updates, at any size. A node that it missed receives it in the next sync.
    """
    return _TRANSMITS + math.ceil(_TRANSMITS_PER_DECADE * math.log10(nodes + 1))


class BroadcastQueue:
    """Updates to send, one for each subject. capacity: how many may wait."""

    def __init__(self, capacity: int = MAX_UPDATES) -> None:
        self._capacity = capacity
        self._levels: list[dict[bytes, bytes]] = [{}]  # by how often they were sent, then by subject
        self._level_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._level_of)

    def add(self, subject: bytes, update: bytes) -> None:
        """Queue an update. subject: the boot id that it is about; update: as `wire` writes it."""
        self.drop(subject)
        if len(self._level_of) >= self._capacity:
            self._drop_stalest()
        self._levels[0][subject] = update
        self._level_of[subject] = 0

    def drop(self, subject: bytes) -> None:
        """Remove the update about a boot id, if one is queued."""
        level = self._level_of.pop(subject, None)
        if level is not None:
            del self._levels[level][subject]

    def add_alive(self, boot_id: bytes, status: NodeStatus) -> None:
        """Queue that a node is alive: in short form, or as an introduction while an introduction is still queued."""
        level = self._level_of.get(boot_id)
        in_full = level is not None and is_intro(self._levels[level][boot_id])
        short = write_alive(boot_id, status.incarnation, status.state, status.continuation_methods, status.deadline)
        self.add(boot_id, write_intro(boot_id, status) if in_full else short)

    def _drop_stalest(self) -> None:
        for level in reversed(self._levels):
            if level:
                subject = next(iter(level))
                del level[subject]
                del self._level_of[subject]
                return

    def next_batch(self, room: int, limit: int) -> list[bytes]:
        """Return updates of at most `room` bytes together, and count each as sent.

        limit: how often each update is sent in all.
        """
        if not self._level_of:
            return []
        batch: list[bytes] = []
        sent: list[tuple[int, bytes, bytes]] = []
        for number, level in enumerate(self._levels):
            for subject, update in level.items():
                if len(update) <= room:
                    room -= len(update)
                    batch.append(update)
                    sent.append((number, subject, update))
            if room < UPDATE_HEADER_BYTES:
                break
        for number, subject, update in sent:
            del self._levels[number][subject]
            if number + 1 >= limit:
                del self._level_of[subject]
                continue
            if number + 1 == len(self._levels):
                self._levels.append({})
            self._levels[number + 1][subject] = update
            self._level_of[subject] = number + 1
        return batch


class LoadQueue:
    """Loads to forward, each LOAD_TRANSMITS times, in the room that updates do not use. capacity: how many may wait."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: dict[bytes, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, boot_id: bytes, packed: bytes) -> None:
        """Queue a node's load, in place of an older one. packed: as `wire.write_load` writes it."""
        self._waiting.pop(boot_id, None)
        if len(self._waiting) >= self._capacity:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[boot_id] = (packed, LOAD_TRANSMITS)

    def drop(self, boot_id: bytes) -> None:
        """Remove the load of a node, if one is queued."""
        self._waiting.pop(boot_id, None)

    def next_batch(self, room: int) -> bytes:
        """Return an update of at most `room` bytes, b"" where no load waits or no room is left."""
        count = min(MAX_LOADS_PER_UPDATE, len(self._waiting), (room - UPDATE_HEADER_BYTES) // LOAD_BYTES)
        if count <= 0:
            return b""
        packed = []
        for boot_id in list(islice(self._waiting, count)):
            load, remaining = self._waiting.pop(boot_id)
            packed.append(load)
            if remaining > 1:
                self._waiting[boot_id] = (load, remaining - 1)
        return write_loads(packed)


class UsageQueue:
    """Reports of keys' usage to forward, each USAGE_TRANSMITS times, in the room that the others leave.

    capacity: how many may wait.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: dict[bytes, tuple[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, boot_id: bytes, update: bytes) -> None:
        """Queue a node's report, in place of an older one. update: as `wire.updates` writes it."""
        self._waiting.pop(boot_id, None)
        if len(self._waiting) >= self._capacity:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[boot_id] = (update, USAGE_TRANSMITS)

    def drop(self, boot_id: bytes) -> None:
        """Remove the report of a node, if one is queued."""
        self._waiting.pop(boot_id, None)

    def next_batch(self, room: int) -> bytes:
        """Return reports of at most `room` bytes together, those that wait longest first."""
        batch = []
        for boot_id in list(self._waiting):
            if room < MIN_USAGE_BYTES:
                break
            update, remaining = self._waiting[boot_id]
            if len(update) > room:
                continue
            room -= len(update)
            batch.append(update)
            del self._waiting[boot_id]
            if remaining > 1:
                self._waiting[boot_id] = (update, remaining - 1)
        return b"".join(batch)
