"""Replicate one stream's journal ahead of its events: an event is committed once its record is at the replicas.

The owner's side of one stream. Each of its replicas is in one of three states:

    CATCHING_UP  the journal was sent whole, nothing was acknowledged yet
    IN_SYNC      it has all committed records; an event waits for every replica in sync
    LAGGING      it did not acknowledge in time. It still receives every record, and is in sync again once it has them
                 all, unless it was replaced before

Rules kept here:

* a committed event is on every replica in sync: so one surviving replica is enough to continue without a loss;
* an event waits for no overdue replica (`core/replication/ack_batches`) while another is in sync;
* where none is in sync, an event waits until one is: a pause costs less than a token. `stop_waiting` ends the wait;
  from then on, until a replica is in sync, events are committed at once and counted;
* a replica that is lagging, lost or leaving is replaced, and dropped when the replacement is in sync;
* an ack counts for the replica that it is of, not for a later one at the same node;
* a refusal as stale means that a newer owner has the stream: nothing may be committed any more;
* a journal is sent again to a node MAX_REOPENS times: a node that loses records, or reports so, is not chosen again;
* a journal that is larger than a replica accepts has no replica from then on (`stop_reason`); no other stream is
  affected.

No clock and no sockets: the output is commands. Records go to all `replicas` as they are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from enum import Enum

from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.refusal import RefusalReason
from node_agent.core.replication.replica_store import MAX_JOURNAL_BYTES

REPLICATION_FACTOR = 2
MAX_REPLICAS = 4
MAX_REOPENS = 3

_NOT_STORED = frozenset({RefusalReason.GAP, RefusalReason.UNKNOWN})
"""Refusals by a node that does not have the journal, or not all of it."""

_FULL = frozenset({RefusalReason.FULL, RefusalReason.OVER_SHARE})


class StopReason(Enum):
    """Why a journal has no replicas from now on; the value is a metric's label, and sent to the client."""

    HEADER_TOO_LARGE = "request-too-large"
    JOURNAL_TOO_LARGE = "journal-too-large"

    def __str__(self) -> str:
        """Return the value, for logs and the client."""
        return self.value


class CloseReason(Enum):
    """Why an owner closes a stream; decides what happens to its journal."""

    FINISHED = "finished"
    """The client has all of it."""

    ABANDONED = "abandoned"
    """The client left, or got an error: it may come back."""

    MOVED = "moves"
    """The client reconnects at another owner."""

    NEVER_ANNOUNCED = "unheard-of"
    """The client never received the stream's id: no request for it can come."""


class ReplicaState(Enum):
    """How far a replica is; the module describes the states."""

    CATCHING_UP = "opening"
    IN_SYNC = "in_sync"
    LAGGING = "late"


@dataclass(eq=False, slots=True)
class Replica:
    """One node's replica of the journal."""

    instance_id: str
    state: ReplicaState
    acked: int = -1
    """The last record that it acknowledged."""

    is_leaving: bool = False
    """True where its node terminates, or may soon."""


@dataclass(frozen=True)
class OpenReplica:
    """Send the whole journal to this replica."""

    replica: Replica


@dataclass(frozen=True)
class DropReplica:
    """Send DROP to this node: its replica is not needed."""

    instance_id: str


Command = OpenReplica | DropReplica


@dataclass(eq=False)
class ReplicatedLog:
    """One stream's journal and its replicas."""

    stream: str
    epoch: Epoch
    header: bytes
    replication_factor: int = REPLICATION_FACTOR
    """How many replicas the journal should have; 0 for none."""

    lines: bytearray = field(default_factory=bytearray)
    """All records, which the stream's state machine writes."""

    seq: int = 0
    """The number of the last record."""

    committed: int = 0
    """The number of the last record whose event was sent to the client."""

    unreplicated: int = 0
    """How many events were committed while no replica had them."""

    is_fenced: bool = False
    """True once a newer owner has the stream."""

    client: str = ""
    """The client whose share of the replicas' stores the journal counts to."""

    stop_reason: StopReason | None = None
    """Why the journal has no replicas from now on; None where it may have some."""

    sync_count: int = 0
    """How often it changed from no replica in sync to one."""

    replicas: dict[str, Replica] = field(default_factory=dict)
    _awaited_replicas: list[Replica] = field(default_factory=list)  # those in sync
    _has_stopped_waiting: bool = False
    _refused_by: set[str] = field(default_factory=set)  # nodes that refused it permanently
    _full: set[str] = field(default_factory=set)  # nodes whose store was full, or this client's share of it
    _reopen_counts: Counter[str] = field(default_factory=Counter)

    def commit_limit(self) -> int:
        """Return the number of the last event that may be committed now."""
        if self.waits_for_any:
            return self.committed
        upto = self.seq
        for replica in self._awaited_replicas:
            upto = min(upto, replica.acked)
        return upto

    def commit(self, upto: int) -> None:
        """Record that the events up to this number are sent to the client."""
        is_replicated = any(replica.acked >= upto for replica in self.replicas.values())
        if self.replication_factor and upto > self.committed and not is_replicated:
            self.unreplicated += 1
        self.committed = max(self.committed, upto)

    @property
    def waits_for_any(self) -> bool:
        """True while no replica is in sync and events wait until one is."""
        return not self._awaited_replicas and bool(self.replicas) and not self._has_stopped_waiting

    def stop_waiting(self, sync_count: int) -> bool:
        """Commit events at once, until a replica is in sync; call it where events have waited too long.

        sync_count: what it was when the wait began.

        Returns:
            False, and nothing changes, where a replica was in sync meanwhile.
        """
        if sync_count == self.sync_count and not self._awaited_replicas:
            self._has_stopped_waiting = True
        return self._has_stopped_waiting

    @property
    def in_sync(self) -> list[str]:
        """The nodes that have every committed record."""
        return [name for name, replica in self.replicas.items() if replica.state is ReplicaState.IN_SYNC]

    def acknowledged(self, replica: Replica, seq: int) -> None:
        """Record that this replica has all records up to `seq`."""
        replica.acked = max(replica.acked, seq)
        if replica.state is not ReplicaState.IN_SYNC and replica.acked >= self.committed:
            replica.state = ReplicaState.IN_SYNC
            self._update_awaited()

    def overdue(self, replica: Replica, seq: int) -> None:
        """Record that this replica did not acknowledge record `seq` in time."""
        if replica.acked < seq and replica.state is not ReplicaState.LAGGING:
            replica.state = ReplicaState.LAGGING
            self._update_awaited()

    def refused(self, instance_id: str, reason: RefusalReason) -> list[Command]:
        """Handle a node's refusal: send all again after a gap, replace it where it is full, stop where it is stale."""
        replica = self.replicas.get(instance_id)
        if replica is None:
            return []
        if reason is RefusalReason.STALE:
            self.is_fenced = True
            self.replicas.clear()
            self._update_awaited()
            return []
        if reason is RefusalReason.TOO_LARGE or self._is_too_large:
            return self.stop_replication(StopReason.JOURNAL_TOO_LARGE)
        is_new_to_it = reason in _NOT_STORED and replica.state is not ReplicaState.CATCHING_UP
        if is_new_to_it and self._reopen_counts[instance_id] < MAX_REOPENS:
            self._reopen_counts[instance_id] += 1
            return [self._open(instance_id)]
        (self._full if reason in _FULL else self._refused_by).add(instance_id)
        self.lost(instance_id)
        return []

    @property
    def _is_too_large(self) -> bool:
        return len(self.header) + len(self.lines) > MAX_JOURNAL_BYTES

    def retry_full_replicas(self) -> None:
        """Allow the nodes whose store was full to be chosen again."""
        self._full.clear()

    def stop_replication(self, reason: StopReason) -> list[Command]:
        """Drop all replicas: no event waits for one from now on."""
        self.stop_reason, self.replication_factor = reason, 0
        dropped = list(self.replicas)
        self.replicas.clear()
        self._update_awaited()
        return [DropReplica(instance_id) for instance_id in dropped]

    def lost(self, instance_id: str) -> None:
        """Remove the replica of a node whose connection broke: nothing about it is certain any more."""
        if self.replicas.pop(instance_id, None) is not None:
            self._update_awaited()

    def reconcile(self, ranked: Sequence[str], eligible: Container[str]) -> list[Command]:
        """Replace the replicas that are lagging or leaving.

        ranked: nodes that may become replicas, the best first; eligible: those that may stay replicas.

        Returns:
            The commands to execute; none for a fenced stream or one without replication.
        """
        if self.is_fenced or not self.replication_factor:
            return []
        if self._is_too_large:
            return self.stop_replication(StopReason.JOURNAL_TOO_LARGE)
        for name, replica in self.replicas.items():
            replica.is_leaving = name not in eligible
        healthy = [n for n, c in self.replicas.items() if c.state is not ReplicaState.LAGGING and not c.is_leaving]
        refused = self._refused_by | self._full
        candidates = [name for name in ranked if name not in self.replicas and name not in refused]
        room = min(self.replication_factor - len(healthy), MAX_REPLICAS - len(self.replicas))
        opened: list[Command] = [self._open(name) for name in candidates[: max(0, room)]]
        return opened + self._drop_spares()

    @property
    def is_settled(self) -> bool:
        """True where it has as many replicas in sync as it should, and no other."""
        healthy = sum(
            1 for replica in self.replicas.values() if replica.state is ReplicaState.IN_SYNC and not replica.is_leaving
        )
        return healthy == len(self.replicas) == self.replication_factor

    def _drop_spares(self) -> list[Command]:
        in_sync = [n for n, c in self.replicas.items() if c.state is ReplicaState.IN_SYNC and not c.is_leaving]
        if len(in_sync) < self.replication_factor:
            return []
        surplus = [n for n, c in self.replicas.items() if c.is_leaving or c.state is ReplicaState.LAGGING]
        surplus += in_sync[self.replication_factor :]
        for name in surplus:
            self.lost(name)
        return [DropReplica(name) for name in surplus]

    def _open(self, instance_id: str) -> OpenReplica:
        replica = self.replicas[instance_id] = Replica(instance_id, ReplicaState.CATCHING_UP)
        self._update_awaited()
        return OpenReplica(replica)

    def _update_awaited(self) -> None:
        """Make events wait for the replicas in sync."""
        had_any = bool(self._awaited_replicas)
        self._awaited_replicas = [r for r in self.replicas.values() if r.state is ReplicaState.IN_SYNC]
        if self._awaited_replicas and not had_any:
            self.sync_count += 1
            self._has_stopped_waiting = False
