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

    MOVED = "moves"
    """The client is on its way to another owner."""

    NEVER_ANNOUNCED = "unheard-of"
    """The client never learned the stream's id: nobody can ever ask for it."""


class ReplicaState(Enum):
    CATCHING_UP = "opening"
    IN_SYNC = "synced"
    LAGGING = "late"


@dataclass(eq=False, slots=True)
class Replica:
    """One keeper's. acked: the last line that it has for certain; leaving: its keeper goes, or may soon."""

    instance_id: str
    state: ReplicaState
    acked: int = -1
    is_leaving: bool = False


@dataclass(frozen=True)
class OpenReplica:
    """Send the whole journal to this copy's keeper."""

    replica: Replica


@dataclass(frozen=True)
class DropReplica:
    """Tell this keeper that its copy is not needed."""

    instance_id: str


Command = OpenReplica | DropReplica


@dataclass(eq=False)
class ReplicatedLog:
    """opening: what the stream began with; log: all its lines, which its machine writes; wanted: how many copies.

    seq: number of the last line; delivered: of the last whose event the client was sent; client: whose share of the
    keepers' room it takes; unkept: why no keeper is to have it, "" where there is no such reason.
    """

    stream: str
    epoch: Epoch
    header: bytes
    replication_factor: int = REPLICATION_FACTOR
    lines: bytearray = field(default_factory=bytearray)
    seq: int = 0
    committed: int = 0
    unreplicated: int = 0
    is_fenced: bool = False
    client: str = ""
    stop_reason: str = ""
    replicas: dict[str, Replica] = field(default_factory=dict)
    _awaited_replicas: list[Replica] = field(default_factory=list)
    _refused_by: set[str] = field(default_factory=set)  # keepers that refused it for good
    _full: set[str] = field(default_factory=set)  # keepers that had none, or this client had its share of it
    _reopen_counts: Counter[str] = field(default_factory=Counter)

    def commit_limit(self) -> int:
        """The number of the last event that may be delivered now."""
        upto = self.seq
        for copy in self._awaited_replicas:
            upto = min(upto, copy.acked)
        return upto

    def commit(self, upto: int) -> None:
        """The events up to this number go to the client now."""
        is_replicated = any(replica.acked >= upto for replica in self.replicas.values())
        if self.replication_factor and upto > self.committed and not is_replicated:
            self.unreplicated += 1
        self.committed = max(self.committed, upto)

    @property
    def in_sync(self) -> list[str]:
        """The keepers that have every delivered line."""
        return [name for name, copy in self.replicas.items() if copy.state is ReplicaState.IN_SYNC]

    def acknowledged(self, copy: Replica, seq: int) -> None:
        """The keeper of this copy has all lines up to `seq`."""
        copy.acked = max(copy.acked, seq)
        if copy.state is not ReplicaState.IN_SYNC and copy.acked >= self.committed:
            copy.state = ReplicaState.IN_SYNC
            self._update_awaited()

    def overdue(self, copy: Replica, seq: int) -> None:
        """The keeper of this copy did not acknowledge line `seq` in time."""
        if copy.acked < seq and copy.state is not ReplicaState.LAGGING:
            copy.state = ReplicaState.LAGGING
            self._update_awaited()

    def refused(self, keeper: str, why: str) -> list[Command]:
        """A keeper would not have it: send all again after a gap, go elsewhere for lack of room, stop when stale."""
        copy = self.replicas.get(keeper)
        if copy is None:
            return []
        if why == keeping.STALE:
            self.is_fenced = True
            self.replicas.clear()
            self._update_awaited()
            return []
        if why == keeping.TOO_LARGE or self._is_too_large:
            return self.stop_replication(JOURNAL_TOO_LARGE)
        is_new_to_it = why in (keeping.GAP, keeping.UNKNOWN) and copy.state is not ReplicaState.CATCHING_UP
        if is_new_to_it and self._reopen_counts[keeper] < MAX_REOPENS:
            self._reopen_counts[keeper] += 1
            return [self._open(keeper)]
        (self._full if why in (keeping.FULL, keeping.OVER_SHARE) else self._refused_by).add(keeper)
        self.lost(keeper)
        return []

    @property
    def _is_too_large(self) -> bool:
        return len(self.header) + len(self.lines) > keeping.MAX_JOURNAL_BYTES

    def retry_full_replicas(self) -> None:
        """Keepers that had no room are asked again."""
        self._full.clear()

    def stop_replication(self, why: str) -> list[Command]:
        """No keeper is to have it from now on, and no event waits for one. why: in a word."""
        self.stop_reason, self.replication_factor = why, 0
        had = list(self.replicas)
        self.replicas.clear()
        self._update_awaited()
        return [DropReplica(keeper) for keeper in had]

    def lost(self, keeper: str) -> None:
        """The connection to the keeper is gone, and with it all that may be known of its copy."""
        if self.replicas.pop(keeper, None) is not None:
            self._update_awaited()

    def reconcile(self, ranked: Sequence[str], fit: Sequence[str]) -> list[Command]:
        """Replace what is late or leaving, from `ranked` keepers, the best first. fit: those that may stay keepers."""
        if self.is_fenced or not self.replication_factor:
            return []
        if self._is_too_large:
            return self.stop_replication(JOURNAL_TOO_LARGE)
        for name, copy in self.replicas.items():
            copy.is_leaving = name not in fit
        good = [n for n, c in self.replicas.items() if c.state is not ReplicaState.LAGGING and not c.is_leaving]
        refused = self._refused_by | self._full
        able = [name for name in ranked if name not in self.replicas and name not in refused]
        room = min(self.replication_factor - len(good), MAX_REPLICAS - len(self.replicas))
        opened: list[Command] = [self._open(name) for name in able[: max(0, room)]]
        return opened + self._drop_spares()

    @property
    def is_settled(self) -> bool:
        """Whether it has the copies that it wants, and no other."""
        good = sum(1 for copy in self.replicas.values() if copy.state is ReplicaState.IN_SYNC and not copy.is_leaving)
        return good == len(self.replicas) == self.replication_factor

    def _drop_spares(self) -> list[Command]:
        synced = [n for n, c in self.replicas.items() if c.state is ReplicaState.IN_SYNC and not c.is_leaving]
        if len(synced) < self.replication_factor:
            return []
        spare = [n for n, c in self.replicas.items() if c.is_leaving or c.state is ReplicaState.LAGGING]
        spare += synced[self.replication_factor :]
        for name in spare:
            self.lost(name)
        return [DropReplica(name) for name in spare]

    def _open(self, keeper: str) -> OpenReplica:
        copy = self.replicas[keeper] = Replica(keeper, ReplicaState.CATCHING_UP)
        self._update_awaited()
        return OpenReplica(copy)

    def _update_awaited(self) -> None:
        """An event waits for the copies in sync; where there are none, for those that are about to be."""
        synced = [copy for copy in self.replicas.values() if copy.state is ReplicaState.IN_SYNC]
        self._awaited_replicas = synced or [c for c in self.replicas.values() if c.state is ReplicaState.CATCHING_UP]
