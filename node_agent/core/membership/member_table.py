"""The table of members: their entries, and views of it that cost nothing to read.

Rules kept here:

* a member is one instance under its newest boot id; an instance that comes back with an older incarnation does not
  count;
* an incarnation never decreases, also not after the member is forgotten: it leaves a tombstone, which is an id and a
  number, so that thousands are cheap; instance ids are never used twice;
* members, tombstones and everything made of them are bounded;
* every change updates a summary of who is present, so that two nodes can compare their tables without sending them:
  BUCKETS numbers, each over the members whose boot ids fall into it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from node_agent.contract.errors import InvalidTransition
from node_agent.core.membership.replay_window import ReplayWindow
from node_agent.core.membership.suspicion import Suspicion
from node_agent.core.node.status import IDLE, Liveness, Load, NodeStatus

MAX_NODES = 2_000
"""More than a region's throttle allows to run; beyond it, newer nodes are not added."""

MAX_TOMBSTONES = 8_192
BUCKETS = 128
MAX_SUSPECTS_SKIPPED = 8
"""How many suspects a node skips on the ring to find a member to watch; past them, only the probe order probes."""

Rng = Callable[[], float]
"""Uniform in [0, 1): the caller's randomness."""


class Member:
    """Another node.

    since: when its liveness last changed, in active time; order_index: its index in its probe order; window: None while
    no message of it was received; is_vouched: whether EC2 vouches for it, without which it gets no request.
    """

    __slots__ = (
        "boot_id", "is_vouched", "liveness", "load", "load_version", "order_index", "since", "status", "suspicion",
        "tagged", "usage_version", "window",
    )  # fmt: skip

    def __init__(self, boot_id: bytes, status: NodeStatus, since: float, window: ReplayWindow | None) -> None:
        self.boot_id = boot_id
        self.status = status
        self.liveness = Liveness.ALIVE
        self.since = since
        self.suspicion: Suspicion | None = None
        self.window = window
        self.load: Load = IDLE
        self.load_version = 0
        self.usage_version = 0
        self.tagged = False
        self.is_vouched = True
        self.order_index = -1

    @property
    def incarnation(self) -> int:
        """The incarnation of its status: the highest that was received under its boot id."""
        return self.status.incarnation


@dataclass(frozen=True)
class Tombstone:
    """What remains of a node that was forgotten. window: None where no message of it was received."""

    boot_id: bytes
    incarnation: int
    window: ReplayWindow | None


@dataclass(frozen=True)
class View:
    """The fleet at one moment, without this node; rebuilt only after a change. The order means nothing.

    All but `unvouched` are nodes that EC2 vouches for.
    """

    version: int
    alive: tuple[NodeStatus, ...]
    """Neither suspect nor gone."""

    serving: tuple[NodeStatus, ...]
    """Those of `alive` that take requests."""

    suspects: tuple[NodeStatus, ...]
    """They may refute at any moment, and are not to be chosen meanwhile."""

    known: tuple[NodeStatus, ...]
    """All members, dead ones included, without those that left."""

    unvouched: tuple[NodeStatus, ...] = ()
    """Present members that EC2 does not vouch for (yet)."""


class ProbeOrder:
    """Members in a random order that is drawn step by step: each once a round, a newcomer within this round.

    SWIM's round-robin (section 4.3) without ever shuffling a list: one step draws from the rest of the round.
    """

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._members: list[Member] = []
        self._position = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def add(self, member: Member) -> None:
        """Add a member, whose turn comes within this round."""
        member.order_index = len(self._members)
        self._members.append(member)

    def remove(self, member: Member) -> None:
        """Remove a member; the others keep their turns of this round. Raises InvalidTransition where it has none."""
        order_index, members = member.order_index, self._members
        if not 0 <= order_index < len(members) or members[order_index] is not member:
            raise InvalidTransition(f"{member.status.instance_id} is not in this rotation")
        if order_index < self._position:  # the last one before the position fills the gap, so that none comes twice
            self._position -= 1
            self._move(self._position, order_index)
            order_index = self._position
        last = members.pop()
        if order_index < len(members):
            members[order_index] = last
            last.order_index = order_index
        member.order_index = -1

    def _move(self, source: int, target: int) -> None:
        moved = self._members[source]
        self._members[target] = moved
        moved.order_index = target

    def next(self) -> Member | None:
        """Return the next member of this round."""
        members = self._members
        if not members:
            return None
        if self._position >= len(members):
            self._position = 0
        at = self._position
        drawn = at + int(self._rng() * (len(members) - at))
        members[at], members[drawn] = members[drawn], members[at]
        members[at].order_index, members[drawn].order_index = at, drawn
        self._position += 1
        return members[at]

    def sample(self, count: int, excluding: Member | None = None) -> list[Member]:
        """Return up to `count` different members at random."""
        members = self._members
        if len(members) <= 3 * count:
            return self._draw(count, [member for member in members if member is not excluding])
        chosen: list[Member] = []
        while len(chosen) < count:
            member = members[int(self._rng() * len(members))]
            if member is not excluding and member not in chosen:
                chosen.append(member)
        return chosen

    def _draw(self, count: int, rest: list[Member]) -> list[Member]:
        count = min(count, len(rest))
        for at in range(count):
            drawn = at + int(self._rng() * (len(rest) - at))
            rest[at], rest[drawn] = rest[drawn], rest[at]
        return rest[:count]


class MemberTable:
    """Members by instance id and by boot id.

    own_id: this node's, which is never a member; vouches_for: whether EC2 vouches for a node, True for all by default.
    """

    def __init__(
        self,
        own_id: str,
        rng: Rng,
        max_nodes: int = MAX_NODES,
        vouches_for: Callable[[NodeStatus], bool] = lambda status: True,
    ) -> None:
        self.own_id = own_id
        self.vouches_for = vouches_for
        self.is_shut_out: Callable[[str], bool] = lambda instance_id: False
        """Whether an operator has excluded an instance."""

        self.by_boot_id: dict[bytes, Member] = {}
        self.by_id: dict[str, Member] = {}
        self.by_address: dict[str, Member] = {}
        """The newest member at each peer API's address: an address may outlive its instance."""

        self.present = ProbeOrder(rng)
        self._ring: list[bytes] = []  # of those present, sorted: a ring
        self.dead = ProbeOrder(rng)
        self.tombstones: dict[str, Tombstone] = {}
        self.summary = [0] * BUCKETS
        self._max_nodes = max_nodes
        self.version = 0
        self._view: View | None = None

    @property
    def nodes(self) -> int:
        """The number of nodes, this one included."""
        return len(self.present) + 1

    @property
    def view(self) -> View:
        """The members by liveness; the same object until something changes."""
        if self._view is None:
            self._view = self._build_view()
        return self._view

    def _build_view(self) -> View:
        members = [member for member in self.by_id.values() if member.is_vouched]
        alive = tuple(m.status for m in members if m.liveness is Liveness.ALIVE)
        return View(
            version=self.version,
            alive=alive,
            serving=tuple(status for status in alive if status.state.takes_requests),
            suspects=tuple(m.status for m in members if m.liveness is Liveness.SUSPECT),
            known=tuple(m.status for m in members if m.liveness is not Liveness.LEFT),
            unvouched=tuple(m.status for m in self.by_id.values() if not m.is_vouched and m.liveness.is_present),
        )

    def _changed(self) -> None:
        self.version += 1
        self._view = None

    def newest_incarnation(self, instance_id: str) -> int:
        """Return the incarnation of an instance, as a member or as a tombstone; -1 where it is unknown."""
        member = self.by_id.get(instance_id)
        if member is not None:
            return member.incarnation
        tombstone = self.tombstones.get(instance_id)
        return tombstone.incarnation if tombstone is not None else -1

    def add(self, boot_id: bytes, status: NodeStatus, now: float, seen_up_to: int | None = None) -> Member | None:
        """Add a newer boot id of an instance, alive, in place of its older one.

        Args:
            boot_id: of this run of the instance's agent.
            status: as the node published it.
            now: active time, in seconds.
            seen_up_to: numbers of its messages up to this one are used up; None where no message of it was received.

        Returns:
            The member; None where the table is full and no dead member can be forgotten.
        """
        before = self.by_id.get(status.instance_id)
        if before is None and not self._has_room():
            return None
        tombstone = self.tombstones.pop(status.instance_id, None)
        window = tombstone.window if tombstone is not None and tombstone.boot_id == boot_id else None
        if seen_up_to is not None:
            window = ReplayWindow(max(seen_up_to, window.highest if window else 0))
        if before is not None:
            self._remove(before)
        member = Member(boot_id, status, now, window)
        member.tagged = before.tagged if before is not None else False
        member.is_vouched = self.vouches_for(status)
        self.by_id[status.instance_id] = member
        self.by_boot_id[boot_id] = member
        self.by_address[status.peer_address] = member
        self._add_to_order(member)
        self._toggle_in_summary(member)
        self._changed()
        return member

    def has(self, member: Member) -> bool:
        """Return whether this entry is still in the table: its instance may have a newer boot id, or be forgotten."""
        return self.by_boot_id.get(member.boot_id) is member

    def _has_room(self) -> bool:
        """Return whether another node fits in; a dead member is forgotten for it if necessary."""
        if len(self.by_id) >= self._max_nodes:
            dead = next(iter(self.dead), None)
            if dead is None:
                return False
            self.forget(dead)
        return True

    def update(self, member: Member, status: NodeStatus) -> None:
        """Replace the status of a member, under the same boot id."""
        self._toggle_in_summary(member)
        if (
            status.peer_address != member.status.peer_address
            and self.by_address.get(member.status.peer_address) is member
        ):
            del self.by_address[member.status.peer_address]
        member.status = status
        self.by_address[status.peer_address] = member
        self._toggle_in_summary(member)
        self._changed()

    def vouch_again(self) -> list[Member]:
        """Decide again for which members EC2 vouches, after a listing; return those that it newly vouches for."""
        changed = [m for m in self.by_id.values() if m.is_vouched is not self.vouches_for(m.status)]
        for member in changed:
            member.is_vouched = not member.is_vouched
        if changed:
            self._changed()
        return [member for member in changed if member.is_vouched]

    def set_liveness(self, member: Member, liveness: Liveness, now: float) -> None:
        """Set a member's liveness."""
        self._toggle_in_summary(member)
        before, member.liveness, member.since = member.liveness, liveness, now
        if liveness is not Liveness.SUSPECT:
            member.suspicion = None
        if before.is_present != liveness.is_present or before is Liveness.DEAD:
            self._remove_from_order(member, before)
            self._add_to_order(member)
        self._toggle_in_summary(member)
        self._changed()

    def _add_to_order(self, member: Member) -> None:
        if member.liveness.is_present:
            self.present.add(member)
            self._add_to_ring(member.boot_id)
        elif member.liveness is Liveness.DEAD:
            self.dead.add(member)

    def _remove_from_order(self, member: Member, held: Liveness) -> None:
        if held.is_present:
            self.present.remove(member)
            self._remove_from_ring(member.boot_id)
        elif held is Liveness.DEAD:
            self.dead.remove(member)

    def _add_to_ring(self, boot_id: bytes) -> None:
        insort(self._ring, boot_id)

    def _remove_from_ring(self, boot_id: bytes) -> None:
        del self._ring[bisect_left(self._ring, boot_id)]

    def next_alive(self, boot_id: bytes) -> Member | None:
        """Return the next live member after this boot id on the ring: the one that its owner watches."""
        boot_ids, at = self._ring, bisect_right(self._ring, boot_id)
        for step in range(min(len(boot_ids), MAX_SUSPECTS_SKIPPED)):
            member = self.by_boot_id[boot_ids[(at + step) % len(boot_ids)]]
            if member.liveness is Liveness.ALIVE:
                return member
        return None

    def forget(self, member: Member) -> None:
        """Remove a member; its tombstone remains."""
        self._remove(member)
        while len(self.tombstones) >= MAX_TOMBSTONES:
            del self.tombstones[next(iter(self.tombstones))]
        self.tombstones[member.status.instance_id] = Tombstone(member.boot_id, member.incarnation, member.window)
        self._changed()

    def _remove(self, member: Member) -> None:
        self._toggle_in_summary(member)
        self._remove_from_order(member, member.liveness)
        member.suspicion = None
        del self.by_id[member.status.instance_id]
        del self.by_boot_id[member.boot_id]
        if self.by_address.get(member.status.peer_address) is member:
            del self.by_address[member.status.peer_address]

    def _toggle_in_summary(self, member: Member) -> None:
        """Add a present member to the summary, or remove it: an exclusive or undoes itself."""
        if member.liveness.is_present:
            self.summary[bucket_of(member.boot_id)] ^= fingerprint(member.boot_id, member.incarnation)

    def in_buckets(self, buckets: Iterable[int]) -> Iterator[Member]:
        """Return all members whose boot ids fall into these buckets, also the dead and those that left."""
        target = frozenset(buckets)
        return (member for member in self.by_id.values() if bucket_of(member.boot_id) in target)


def bucket_of(boot_id: bytes) -> int:
    """Return the bucket of a boot id: the index in a summary, from 0 to BUCKETS - 1."""
    return boot_id[0] % BUCKETS


def fingerprint(boot_id: bytes, incarnation: int) -> int:
    """Hash a boot id in an incarnation to 32 bits."""
    digest = blake2b(boot_id + incarnation.to_bytes(8, "big"), digest_size=4).digest()
    return int.from_bytes(digest, "big")
