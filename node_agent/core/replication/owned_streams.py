"""Decide what a node writes to the table about the streams that it owns, and when.

Two things are written (`contract/open_streams`, `contract/ownership`): one record of all open streams, and for some
streams what became of them.

Rules kept here:

* a token causes no write, and neither does the start or the end of a stream by itself: the record is written at most
  every WRITE_EVERY_S, except at once where the node's state changes;
* nothing is written while nothing changed, but a record with open streams is renewed before it expires;
* a stream's own record is written only where another writer may have, or get, another view: it was taken over (its
  older owner may be orphaned late), or this node is draining (EC2 may report its end before the node has ended);
* what could not be written stays due. A stream's newer status replaces its older one, and at MAX_CHANGES the oldest
  change is dropped, and counted: AWS may be unavailable for long;
* a stream whose client wants no copies is not recorded: no node could continue it.

No clock: times are unix seconds, passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from node_agent.contract.open_streams import MAX_STREAMS, OpenStream, OpenStreams, is_stream_id, open_streams_life
from node_agent.contract.ownership import MAX_REPLICAS, Ownership, moves_forward, ownership_life
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import CHECKPOINT_LIFE_S, StreamStatus
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.replica_store import JournalReplica
from node_agent.core.replication.replicated_log import CloseReason, ReplicatedLog

WRITE_EVERY_S = 15.0
RENEW_EVERY_S = CHECKPOINT_LIFE_S / 4
"""Three renewals may fail before a record in use expires."""

MAX_CHANGES = 10_000
ENDED_WITHIN_S = 2 * WRITE_EVERY_S
"""How far back a lost owner's last record may be: what it had ended since then is closed by its replicas."""

_FAR_S = 1e11
"""Unix seconds that no deadline reaches; a notice that cannot be parsed has an infinite one."""

AddressOf = Callable[[str], str | None]
"""Returns the address of a peer's API by its instance id; None for an unknown peer."""


@dataclass(frozen=True)
class _Open:
    """An open stream. since: when this node became its owner."""

    log: ReplicatedLog
    since: float


@dataclass(frozen=True)
class Round:
    """What is to be written now, in this order.

    An end is written before the record leaves the stream out, and a takeover after the record has it: so a node that
    dies in between leaves no stream that is open by its own record, and that no Lambda would orphan.
    """

    ended: tuple[Ownership, ...]
    record: OpenStreams | None
    """None where the table has it already."""

    opened: tuple[Ownership, ...]


class OwnedStreams:
    """The open streams of one incarnation of a node, and what is not written yet."""

    def __init__(self, instance_id: str, incarnation: int) -> None:
        self.dropped = 0
        """Changes that were dropped at MAX_CHANGES."""

        self._instance_id = instance_id
        self._incarnation = incarnation
        self._deadline: float | None = None
        self._is_draining = False
        self._is_urgent = False
        self._open: dict[str, _Open] = {}
        self._changes: OrderedDict[str, Ownership] = OrderedDict()
        self._attempted_at: float | None = None
        self._written: OpenStreams | None = None
        self._written_at = 0.0
        self._renewed_at: float | None = None

    def __len__(self) -> int:
        return len(self._open)

    # what happens to streams

    def opened(self, log: ReplicatedLog, at: float) -> None:
        """Record that this node became a stream's owner."""
        if not log.replication_factor or not is_stream_id(log.stream):
            return
        self._open[log.stream] = _Open(log, at)
        if log.epoch.number > 1:
            self._change(_ownership(log, StreamStatus.OPEN, at, at))

    def closed(self, log: ReplicatedLog, reason: CloseReason, at: float) -> None:
        """Record that a stream ended here. A fenced one did not: its newer owner writes about it."""
        held = self._open.get(log.stream)
        if held is None or held.log is not log:
            return
        del self._open[log.stream]
        if log.is_fenced:
            self._changes.pop(log.stream, None)
        elif self._is_draining or log.epoch.number > 1:
            status = StreamStatus.HANDED_OFF if reason is CloseReason.MOVED else StreamStatus.CLOSED
            self._change(_ownership(log, status, held.since, at))

    def owner_lost(self, instance_id: str, journals: Iterable[tuple[str, JournalReplica]], at: float) -> None:
        """Close the streams of a lost node that it had ended: its last record may be older than their ends.

        journals: that this node has as a replica; those of other nodes are left out.
        """
        for stream, journal in journals:
            epoch = journal.written_epoch
            has_ended = journal.end_reason is not None and at - journal.updated_at <= ENDED_WITHIN_S
            if has_ended and epoch.owner.partition("+")[0] == instance_id and is_stream_id(stream):
                self._change(_closed_by_replica(stream, epoch, journal, at))

    def orphan(self, previous: OpenStreams | None, at: float) -> None:
        """Orphan the streams of an older incarnation of this node: its agent ended without a word."""
        if previous is None or previous.incarnation >= self._incarnation or previous.expires_at <= at:
            return
        for orphan in previous.orphans(at):
            self._change(orphan)

    def set_state(self, state: NodeState, deadline: float | None) -> None:
        """Record the node's state; a change is written at once. deadline: of a drain, unix seconds."""
        self._is_urgent = True
        self._is_draining = self._is_draining or state.rank >= NodeState.DRAINING.rank
        if deadline is not None and 0 < deadline < _FAR_S:
            self._deadline = deadline

    # what is written

    def wait_s(self, now: float) -> float:
        """Return how long to wait before the next round, in seconds."""
        if self._is_urgent or self._attempted_at is None:
            return 0.0
        return min(max(0.0, self._attempted_at + WRITE_EVERY_S - now), WRITE_EVERY_S)

    def attempt(self, now: float) -> None:
        """Record that a round begins: the next one is WRITE_EVERY_S later, also where this one fails."""
        self._is_urgent, self._attempted_at = False, now

    def due(self, now: float, address_of: AddressOf) -> Round:
        """Return what is to be written now. Report each part that was written."""
        self._renew_changes(now)
        record = self._record(now, address_of)
        changes = [_with_addresses(change, address_of) for change in self._changes.values()]
        return Round(
            tuple(change for change in changes if change.status is not StreamStatus.OPEN),
            record if self._is_due(record, now) else None,
            tuple(change for change in changes if change.status is StreamStatus.OPEN),
        )

    def record_written(self, record: OpenStreams, at: float) -> None:
        """Record that the table has this record."""
        self._written, self._written_at = record, at

    def changes_written(self, changes: Iterable[Ownership]) -> None:
        """Record that the table has these, or newer ones. What changed meanwhile stays due."""
        for change in changes:
            held = self._changes.get(change.stream)
            if held is not None and held.progress == change.progress:
                del self._changes[change.stream]

    def _is_due(self, record: OpenStreams, now: float) -> bool:
        written = self._written
        if written is None:
            return bool(record.streams)
        same = (record.streams, record.deadline) == (written.streams, written.deadline)
        return not same or (bool(record.streams) and now - self._written_at >= RENEW_EVERY_S)

    def _record(self, now: float, address_of: AddressOf) -> OpenStreams:
        # The oldest first, which a dict has: most is lost with them.
        listed = [_listed(held) for _, held in zip(range(MAX_STREAMS), self._open.values(), strict=False)]
        names = dict.fromkeys(name for stream in listed for name in stream.replicas)
        addresses = {name: address for name in names if (address := address_of(name)) is not None}
        return OpenStreams(
            instance_id=self._instance_id,
            incarnation=self._incarnation,
            streams=tuple(listed),
            expires_at=open_streams_life(now),
            addresses=addresses,
            left_out=len(self._open) - len(listed),
            deadline=self._deadline,
        )

    def _renew_changes(self, now: float) -> None:
        """Write again, before it expires, that a stream which was taken over is open."""
        if self._renewed_at is None:
            self._renewed_at = now
        if now - self._renewed_at < RENEW_EVERY_S:
            return
        self._renewed_at = now
        for held in self._open.values():
            if held.log.epoch.number > 1:
                self._change(_ownership(held.log, StreamStatus.OPEN, held.since, held.since, now))

    def _change(self, change: Ownership) -> None:
        if not moves_forward(self._changes.get(change.stream), change):
            return
        self._changes[change.stream] = change
        while len(self._changes) > MAX_CHANGES:
            self._changes.popitem(last=False)
            self.dropped += 1


def _listed(held: _Open) -> OpenStream:
    log = held.log
    replicas = tuple(log.replicas)[:MAX_REPLICAS]
    return OpenStream(log.stream, log.epoch.number, log.epoch.owner, log.seq, held.since, replicas)


def _ownership(
    log: ReplicatedLog, status: StreamStatus, since: float, changed_at: float, now: float | None = None
) -> Ownership:
    """Return a stream's record. Its replicas have no addresses yet. now: of the write, `changed_at` by default."""
    return Ownership(
        stream=log.stream,
        number=log.epoch.number,
        owner=log.epoch.owner,
        status=status,
        seq=log.seq,
        since=since,
        changed_at=changed_at,
        expires_at=ownership_life(changed_at if now is None else now),
        replicas=dict.fromkeys(tuple(log.replicas)[:MAX_REPLICAS], ""),
    )


def _closed_by_replica(stream: str, epoch: Epoch, journal: JournalReplica, at: float) -> Ownership:
    return Ownership(
        stream=stream,
        number=epoch.number,
        owner=epoch.owner,
        status=StreamStatus.CLOSED,
        seq=journal.seq,
        since=journal.updated_at,
        changed_at=at,
        expires_at=ownership_life(at),
    )


def _with_addresses(change: Ownership, address_of: AddressOf) -> Ownership:
    """Add the addresses of replicas that have none yet; a replica that is unknown by now is left out."""
    known = {name: held or address_of(name) for name, held in change.replicas.items()}
    return replace(change, replicas={name: address for name, address in known.items() if address is not None})
