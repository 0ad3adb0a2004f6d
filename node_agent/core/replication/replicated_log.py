"""Write-ahead: an event reaches its client only after the keepers have its line, and no client waits long for that.

The owner's side of one stream. It has copies at some keepers, each in one of three conditions:

    OPENING  the journal was sent whole, nothing was acknowledged yet
    SYNCED   it has all lines that were ever delivered; an event waits for every synced copy
    LATE     its keeper did not acknowledge in time: no event waits for it. It still gets every line, and is synced
             again once it has them all, if no other took its place until then

Rules kept here:

* while a copy is synced, a delivered event is on it: so one surviving keeper is enough to go on without a loss;
* an event waits for no copy whose keeper is overdue (`core/replication/ack_batches`); what goes out with no synced copy
  is counted;
* a copy that is late, lost or leaving is replaced, and let go of when the replacement is synced;
* an acknowledgement counts for the copy that it is of, not for a later one at the same keeper;
* a refusal as stale means that someone newer owns the stream: nothing may be delivered any more;
* a journal is sent anew to a keeper MAX_REOPENS times: one that loses what it is sent, or says so, is not asked again;
* a journal that is larger than a keeper takes is at no keeper from then on (`unkept`): that is the stream's own loss.

No clock and no sockets: what is to be sent comes out as instructions. Lines go to all `copies`, as they are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication import replica_store as keeping

REPLICATION_FACTOR = 2
MAX_REPLICAS = 4
MAX_REOPENS = 3

HEADER_TOO_LARGE = "request-too-large"
JOURNAL_TOO_LARGE = "journal-too-large"


class CloseReason(Enum):
    """What becomes of a stream's journal when its owner is done with the stream."""

    FINISHED = "finished"
    """The client has all of it."""

    ABANDONED = "abandoned"
    """The client left, or got an error: it may come back."""

    MOVES = "moves"
    """The client is on its way to another owner."""

    UNHEARD_OF = "unheard-of"
    """The client never learned the stream's id: nobody can ever ask for it."""


class ReplicaState(Enum):
    OPENING = "opening"
    SYNCED = "synced"
    LATE = "late"


@dataclass(eq=False, slots=True)
class Replica:
    """One keeper's. acked: the last line that it has for certain; leaving: its keeper goes, or may soon."""

    keeper: str
    condition: ReplicaState
    acked: int = -1
    leaving: bool = False


@dataclass(frozen=True)
class OpenReplica:
    """Send the whole journal to this copy's keeper."""

    copy: Replica


@dataclass(frozen=True)
class DropReplica:
    """Tell this keeper that its copy is not needed."""

    keeper: str


Command = OpenReplica | DropReplica


@dataclass(eq=False)
class ReplicatedLog:
    """opening: what the stream began with; log: all its lines, which its machine writes; wanted: how many copies.

    seq: number of the last line; delivered: of the last whose event the client was sent; client: whose share of the
    keepers' room it takes; unkept: why no keeper is to have it, "" where there is no such reason.
    """

    stream: str
    epoch: Epoch
    opening: bytes
    wanted: int = REPLICATION_FACTOR
    log: bytearray = field(default_factory=bytearray)
    seq: int = 0
    delivered: int = 0
    gaps: int = 0
    fenced: bool = False
    client: str = ""
    unkept: str = ""
    copies: dict[str, Replica] = field(default_factory=dict)
    _awaited: list[Replica] = field(default_factory=list)
    _unfit: set[str] = field(default_factory=set)  # keepers that refused it for good
    _without_room: set[str] = field(default_factory=set)  # keepers that had none, or this client had its share of it
    _reopened: Counter[str] = field(default_factory=Counter)

    def deliverable(self) -> int:
        """The number of the last event that may be delivered now."""
        upto = self.seq
        for copy in self._awaited:
            upto = min(upto, copy.acked)
        return upto

    def deliver(self, upto: int) -> None:
        """The events up to this number go to the client now."""
        if self.wanted and upto > self.delivered and not any(copy.acked >= upto for copy in self.copies.values()):
            self.gaps += 1
        self.delivered = max(self.delivered, upto)

    @property
    def synced(self) -> list[str]:
        """The keepers that have every delivered line."""
        return [name for name, copy in self.copies.items() if copy.condition is ReplicaState.SYNCED]

    def acknowledged(self, copy: Replica, seq: int) -> None:
        """The keeper of this copy has all lines up to `seq`."""
        copy.acked = max(copy.acked, seq)
        if copy.condition is not ReplicaState.SYNCED and copy.acked >= self.delivered:
            copy.condition = ReplicaState.SYNCED
            self._sort_out()

    def overdue(self, copy: Replica, seq: int) -> None:
        """The keeper of this copy did not acknowledge line `seq` in time."""
        if copy.acked < seq and copy.condition is not ReplicaState.LATE:
            copy.condition = ReplicaState.LATE
            self._sort_out()

    def refused(self, keeper: str, why: str) -> list[Command]:
        """A keeper would not have it: send all again after a gap, go elsewhere for lack of room, stop when stale."""
        copy = self.copies.get(keeper)
        if copy is None:
            return []
        if why == keeping.STALE:
            self.fenced = True
            self.copies.clear()
            self._sort_out()
            return []
        if why == keeping.TOO_LARGE or self._is_too_large:
            return self.keep_nowhere(JOURNAL_TOO_LARGE)
        is_new_to_it = why in (keeping.GAP, keeping.UNKNOWN) and copy.condition is not ReplicaState.OPENING
        if is_new_to_it and self._reopened[keeper] < MAX_REOPENS:
            self._reopened[keeper] += 1
            return [self._open(keeper)]
        (self._without_room if why in (keeping.FULL, keeping.OVER_SHARE) else self._unfit).add(keeper)
        self.lost(keeper)
        return []

    @property
    def _is_too_large(self) -> bool:
        return len(self.opening) + len(self.log) > keeping.MAX_JOURNAL_BYTES

    def look_for_room(self) -> None:
        """Keepers that had no room are asked again."""
        self._without_room.clear()

    def keep_nowhere(self, why: str) -> list[Command]:
        """No keeper is to have it from now on, and no event waits for one. why: in a word."""
        self.unkept, self.wanted = why, 0
        had = list(self.copies)
        self.copies.clear()
        self._sort_out()
        return [DropReplica(keeper) for keeper in had]

    def lost(self, keeper: str) -> None:
        """The connection to the keeper is gone, and with it all that may be known of its copy."""
        if self.copies.pop(keeper, None) is not None:
            self._sort_out()

    def review(self, ranked: Sequence[str], fit: Sequence[str]) -> list[Command]:
        """Replace what is late or leaving, from `ranked` keepers, the best first. fit: those that may stay keepers."""
        if self.fenced or not self.wanted:
            return []
        if self._is_too_large:
            return self.keep_nowhere(JOURNAL_TOO_LARGE)
        for name, copy in self.copies.items():
            copy.leaving = name not in fit
        good = [n for n, c in self.copies.items() if c.condition is not ReplicaState.LATE and not c.leaving]
        refused = self._unfit | self._without_room
        able = [name for name in ranked if name not in self.copies and name not in refused]
        room = min(self.wanted - len(good), MAX_REPLICAS - len(self.copies))
        opened: list[Command] = [self._open(name) for name in able[: max(0, room)]]
        return opened + self._let_go()

    @property
    def is_settled(self) -> bool:
        """Whether it has the copies that it wants, and no other."""
        good = sum(1 for copy in self.copies.values() if copy.condition is ReplicaState.SYNCED and not copy.leaving)
        return good == len(self.copies) == self.wanted

    def _let_go(self) -> list[Command]:
        synced = [n for n, c in self.copies.items() if c.condition is ReplicaState.SYNCED and not c.leaving]
        if len(synced) < self.wanted:
            return []
        spare = [n for n, c in self.copies.items() if c.leaving or c.condition is ReplicaState.LATE]
        spare += synced[self.wanted :]
        for name in spare:
            self.lost(name)
        return [DropReplica(name) for name in spare]

    def _open(self, keeper: str) -> OpenReplica:
        copy = self.copies[keeper] = Replica(keeper, ReplicaState.OPENING)
        self._sort_out()
        return OpenReplica(copy)

    def _sort_out(self) -> None:
        """An event waits for the copies in sync; where there are none, for those that are about to be."""
        synced = [copy for copy in self.copies.values() if copy.condition is ReplicaState.SYNCED]
        self._awaited = synced or [c for c in self.copies.values() if c.condition is ReplicaState.OPENING]
