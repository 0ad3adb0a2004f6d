"""Tables of members for fleets too large to have one each: ten thousand nodes know a hundred million others.

All begin with the same members, with no changes yet. So a table begins as a reference to those, and a member is copied
only when it changes or is read. It does exactly what `MemberTable` does, with the same random draws in the same order;
tests/unit/sim holds the two to that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, ValuesView
from dataclasses import dataclass
from typing import TypeVar

from node_agent.core.membership.member_table import (
    BUCKETS,
    MAX_SUSPECTS_SKIPPED,
    Member,
    MemberTable,
    ProbeOrder,
    Rng,
    bucket_of,
    fingerprint,
)
from node_agent.core.node.status import Liveness, NodeStatus

_Key = TypeVar("_Key", bound=bytes | str)


@dataclass
class Start:
    """The members that all tables begin with, and their indexes."""

    boot_ids: list[bytes]
    statuses: list[NodeStatus]

    def __post_init__(self) -> None:
        self.by_boot_id = {boot_id: number for number, boot_id in enumerate(self.boot_ids)}
        self.by_id = {status.instance_id: number for number, status in enumerate(self.statuses)}
        self.ring = sorted(self.boot_ids)
        self.in_bucket: dict[int, list[int]] = {}
        for number, boot_id in enumerate(self.boot_ids):
            self.in_bucket.setdefault(bucket_of(boot_id), []).append(number)
        self.summary = [0] * BUCKETS
        for boot_id, status in zip(self.boot_ids, self.statuses, strict=True):
            self.summary[bucket_of(boot_id)] ^= fingerprint(boot_id, status.incarnation)


class _Table(dict[_Key, Member]):
    """Members by a name, made when they are looked for."""

    def __init__(self, numbers: dict[_Key, int], own: int, make: Callable[[int], Member]) -> None:
        super().__init__()
        self._numbers = numbers
        self._own = own
        self._make = make
        self._gone: set[_Key] = set()
        self._size = len(numbers) - 1

    def __missing__(self, key: _Key) -> Member:
        number = self._numbers.get(key, self._own)
        if number == self._own or key in self._gone:
            raise KeyError(key)
        return self._make(number)

    def get(self, key: _Key, default: Member | None = None) -> Member | None:  # type: ignore[override]
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or self.is_as_at_first(key)  # type: ignore[arg-type]

    def __setitem__(self, key: _Key, member: Member) -> None:
        self._size += key not in self
        super().__setitem__(key, member)

    def __delitem__(self, key: _Key) -> None:
        super().__delitem__(key)
        self._gone.add(key)
        self._size -= 1

    def keep(self, key: _Key, member: Member) -> None:
        """One that was there all the time has become its own."""
        super().__setitem__(key, member)

    def __len__(self) -> int:
        return self._size

    def is_as_at_first(self, key: _Key) -> bool:
        """Whether it was there from the start, and has not been away."""
        return key not in self._gone and self._numbers.get(key, self._own) != self._own

    def newcomers(self) -> Iterator[_Key]:
        """All others, in the order in which they came."""
        return (key for key in dict.keys(self) if not self.is_as_at_first(key))

    def __iter__(self) -> Iterator[_Key]:
        yield from filter(self.is_as_at_first, self._numbers)
        yield from self.newcomers()

    def values(self) -> ValuesView[Member]:  # type: ignore[override]
        return ValuesView(self)


class _SharedRotation(ProbeOrder):
    """A Rotation whose list is the start's, but for what was exchanged in it."""

    def __init__(self, rng: Rng, own: int, count: int, make: Callable[[int], Member]) -> None:
        super().__init__(rng)
        self._own = own
        self._count = count
        self._make = make
        self._moved: dict[int, int | Member] = {}
        self._place_of: dict[int | Member, int] = {}
        self._number_of: dict[bytes, int] = {}

    def know(self, boot_id: bytes, number: int) -> None:
        self._number_of[boot_id] = number

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Member]:
        return (self._member(self._at(place)) for place in range(self._count))

    def _at(self, place: int) -> int | Member:
        key = self._moved.get(place)
        return (place if place < self._own else place + 1) if key is None else key

    def _put(self, place: int, key: int | Member) -> None:
        self._moved[place] = key
        self._place_of[key] = place

    def _member(self, key: int | Member) -> Member:
        return self._make(key) if isinstance(key, int) else key

    def add(self, member: Member) -> None:
        self._put(self._count, self._number_of.get(member.boot_id, member))
        self._count += 1

    def remove(self, member: Member) -> None:
        key = self._number_of.get(member.boot_id, member)
        first = (key if key < self._own else key - 1) if isinstance(key, int) else -1
        place = self._place_of.get(key, first)
        if place < self._position:
            self._position -= 1
            self._put(place, self._at(self._position))
            place = self._position
        self._count -= 1
        last = self._at(self._count)
        if place < self._count:
            self._put(place, last)
        self._moved.pop(self._count, None)
        self._place_of.pop(key, None)

    def next(self) -> Member | None:
        if not self._count:
            return None
        if self._position >= self._count:
            self._position = 0
        at = self._position
        drawn = at + int(self._rng() * (self._count - at))
        chosen, other = self._at(drawn), self._at(at)
        self._put(at, chosen)
        if drawn != at:
            self._put(drawn, other)
        self._position += 1
        return self._member(chosen)

    def sample(self, count: int, excluding: Member | None = None) -> list[Member]:
        if self._count <= 3 * count:
            return self._draw(count, [member for member in self if member is not excluding])
        chosen: list[Member] = []
        while len(chosen) < count:
            member = self._member(self._at(int(self._rng() * self._count)))
            if member is not excluding and member not in chosen:
                chosen.append(member)
        return chosen


class SharedMemberTable(MemberTable):
    """A table over the start. own: this node's number in the start."""

    def __init__(self, own: int, rng: Rng, start: Start, max_nodes: int) -> None:
        super().__init__(start.statuses[own].instance_id, rng, max_nodes)
        self._start = start
        self._own = own
        self._ring = start.ring
        self._on_ring: Collection[bytes] = start.by_boot_id
        self._boot_id_table: _Table[bytes] = _Table(start.by_boot_id, own, self._make)
        self._id_table: _Table[str] = _Table(start.by_id, own, self._make)
        self.by_boot_id = self._boot_id_table
        self.by_id = self._id_table
        self._shared = _SharedRotation(rng, own, len(start.boot_ids) - 1, self._make)
        self.present = self._shared
        self.version = len(start.boot_ids) - 1
        boot_id = start.boot_ids[own]
        self.summary = list(start.summary)
        self.summary[bucket_of(boot_id)] ^= fingerprint(boot_id, start.statuses[own].incarnation)

    def _make(self, number: int) -> Member:
        boot_id = self._start.boot_ids[number]
        if dict.__contains__(self._boot_id_table, boot_id):
            return self._boot_id_table[boot_id]
        status = self._start.statuses[number]
        member = Member(boot_id, status, 0.0, None)
        self._shared.know(boot_id, number)
        self._boot_id_table.keep(boot_id, member)
        self._id_table.keep(status.instance_id, member)
        return member

    def in_buckets(self, buckets: Iterable[int]) -> Iterator[Member]:
        """Without a look at all the others, so that they need not be made."""
        wanted = frozenset(buckets)
        for number in sorted(number for bucket in wanted for number in self._start.in_bucket.get(bucket, ())):
            if self._id_table.is_as_at_first(self._start.statuses[number].instance_id):
                yield self._make(number)
        for name in self._id_table.newcomers():
            member = self._id_table[name]
            if bucket_of(member.boot_id) in wanted:
                yield member

    def _add_to_ring(self, boot_id: bytes) -> None:
        """The ring is the start's until a newcomer joins; who is not there any more is stepped over."""
        if boot_id not in self._on_ring:
            self._on_ring = {*self._on_ring, boot_id}
            self._ring = sorted((*self._ring, boot_id))

    def _remove_from_ring(self, boot_id: bytes) -> None:
        """It stays, and is stepped over."""

    def next_alive(self, boot_id: bytes) -> Member | None:
        """Return the next live member on the ring, as MemberTable; boot ids that are no member any more are skipped."""
        ring, at = self._ring, bisect_right(self._ring, boot_id)
        steps = 0
        for step in range(len(ring) - 1):
            member = self.by_boot_id.get(ring[(at + step) % len(ring)])
            if member is None or not member.liveness.is_present:
                continue
            if member.liveness is Liveness.ALIVE:
                return member
            steps += 1
            if steps == MAX_SUSPECTS_SKIPPED:
                break
        return None
