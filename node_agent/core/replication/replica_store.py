"""Store the journals of other nodes' streams, unread, in bounded memory: what a replica holds.

Rules kept here:

* an epoch only grows: once a stream was taken over, nothing of an older owner is accepted;
* a stream is taken over only for a client that may resume it (`core/journal/stream_claim`);
* records are gapless: known ones are skipped, a gap is refused, and the owner sends the whole journal again;
* a journal is retained for RETENTION_S after its last record; its id stays on the list of expired ones for a while;
* an orphan, whose owner is gone and whose client has not come back, is replicated to others, so that the nodes that
  have it may terminate, too;
* at the bound of all journals together the finished ones are evicted first, oldest first; then the abandoned ones,
  whose client left before the end and may come back: of the client that has most bytes here, oldest first. Then a new
  journal is refused, and a growing one too: its owner chooses another replica. A live journal is never evicted for
  another;
* finished journals have one FINISHED_DIVISORth of the store: their clients need them only where a connection broke in
  the answer's last moment, and come back at once;
* one client has at most half of the store for what is not finished; beyond it its own abandoned journals are evicted,
  and then its own new records are refused: however much one client sends, there is room for others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from node_agent.core.journal.epochs import Epoch
from node_agent.core.journal.stream_claim import NO_CLAIM, StreamClaim, read_claim
from node_agent.core.replication.refusal import RefusalReason, ReplicaRefused
from node_agent.core.replication.store_shares import StoreShares

RETENTION_S = 300.0
MAX_JOURNAL_BYTES = 8 * 1024 * 1024
"""The largest journal, its header included."""

MAX_HEADER_BYTES = 6 * 1024 * 1024
"""The largest header, which has the whole request: the rest of the journal is for the answer."""

MAX_BYTES = 256 * 1024 * 1024
FINISHED_DIVISOR = 32
OVERHEAD_BYTES = 1024
"""The cost of a journal beside its bytes; without it a million empty ones would be free."""

MAX_EXPIRED = 20_000
ORPHAN_AFTER_S = 1.0
"""A client usually comes back within that time, and then the new owner replicates the journal."""


class EndReason(Enum):
    """Why a stream ended at its owner. The values are the numbers of FINISH (`core/replication/protocol`)."""

    FINISHED = 0
    """The client has all of it."""

    ABANDONED = 1
    """The client left, or got an error: it may come back; if it does not, the journal is not needed."""


@dataclass
class JournalReplica:
    """One stream's journal as this node stores it."""

    epoch: Epoch
    """Messages of a lower epoch are refused."""

    written_epoch: Epoch
    """The epoch of the records; lower than `epoch` once the journal was taken over."""

    header: bytes
    seq: int
    """The number of records in `lines`."""

    lines: bytearray
    updated_at: float
    """Unix seconds of the last record."""

    client: str = ""
    """The stream's client, as the owner has it."""

    end_reason: EndReason | None = None
    orphaned_at: float | None = None
    """When the owner's connection broke, or when the journal was taken over, until the new owner sends it again."""

    copied_to: set[str] = field(default_factory=set)
    """Peers that received the journal from this node."""

    @property
    def is_finished(self) -> bool:
        """True where the client has all of it; False also for an abandoned one."""
        return self.end_reason is EndReason.FINISHED

    @property
    def size(self) -> int:
        """The bytes that it counts in the store: its header, its records and OVERHEAD_BYTES."""
        return len(self.header) + len(self.lines) + OVERHEAD_BYTES


@dataclass(frozen=True)
class JournalSnapshot:
    """A journal as its new owner receives it.

    Of several, the one that was written in the highest epoch counts, however long another is: an owner that was cut off
    may have generated more, which differs from what the client received since.
    """

    written_epoch: Epoch
    """The epoch of the records."""

    next_number: int
    """The number of the new owner's epoch."""
    header: bytes
    seq: int
    lines: bytes


def newest(journals: Sequence[JournalSnapshot]) -> JournalSnapshot:
    """Return the journal that the client's events came from."""
    return max(journals, key=lambda journal: (journal.written_epoch, journal.seq))


@dataclass
class ReplicaStore:
    """All journals that this node stores, by stream id, in the order of the last record."""

    max_bytes: int = MAX_BYTES
    """The bound of all journals together."""

    max_journal_bytes: int = MAX_JOURNAL_BYTES
    """The bound of one journal, without its overhead."""

    held_bytes: int = 0
    """The size of all journals now."""

    _finished_bytes: int = 0
    _journals: OrderedDict[str, JournalReplica] = field(default_factory=OrderedDict)
    _finished: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _shares: StoreShares = field(default_factory=StoreShares)  # of clients, in what is not finished
    _expired: OrderedDict[str, StreamClaim] = field(default_factory=OrderedDict)
    _orphan_candidates: set[str] = field(default_factory=set)  # streams whose journals may be orphans

    def __len__(self) -> int:
        return len(self._journals)

    def open(
        self, stream: str, epoch: Epoch, header: bytes, seq: int, lines: bytes, now: float, client: str = ""
    ) -> int:
        """Store a whole journal, in place of an older owner's.

        Of one epoch the longer journal stays: the shorter is its beginning, received late.

        Args:
            stream: the stream's id.
            epoch: of the owner that sends the journal.
            header: the stream's.
            seq: the number of records in `lines`.
            lines: the records, one a line.
            now: unix seconds.
            client: the client whose share it counts to, "" for the owner's node.

        Returns:
            The number of the last stored record.

        Raises:
            ReplicaRefused: STALE where a newer owner has the stream, TOO_LARGE, OVER_SHARE or FULL for its size.
        """
        known = self._journals.get(stream)
        if known is not None and known.epoch > epoch:
            raise ReplicaRefused(RefusalReason.STALE)
        if known is not None and known.written_epoch == epoch and known.seq >= seq:
            known.orphaned_at = None
            return known.seq
        journal = JournalReplica(epoch, epoch, header, seq, bytearray(lines), now, client or epoch.owner)
        self._make_room(journal, journal.size - (known.size if known else 0), len(header) + len(lines), stream)
        self._remove(stream)
        self._journals[stream] = journal
        self._add_bytes(journal, journal.size)
        return seq

    def append(self, stream: str, epoch: Epoch, first: int, lines: bytes, now: float) -> int:
        """Store the records from number `first` on. Returns the last stored number; raises ReplicaRefused."""
        journal = self._journals.get(stream)
        if journal is None:
            raise ReplicaRefused(RefusalReason.UNKNOWN)
        if journal.epoch > epoch:
            raise ReplicaRefused(RefusalReason.STALE)
        if journal.written_epoch != epoch:
            raise ReplicaRefused(RefusalReason.UNKNOWN)
        if first > journal.seq + 1:
            raise ReplicaRefused(RefusalReason.GAP)
        last = first - 1 + lines.count(b"\n")
        if first <= journal.seq:  # some are stored already
            lines = _skip_lines(lines, journal.seq + 1 - first)
        if lines:
            self._make_room(journal, len(lines), len(journal.header) + len(journal.lines) + len(lines), stream)
            journal.lines += lines
            journal.seq = max(journal.seq, last)
            self._add_bytes(journal, len(lines))
        journal.updated_at = now
        self._journals.move_to_end(stream)
        return journal.seq

    def end(self, stream: str, epoch: Epoch, reason: EndReason) -> None:
        """Record that the stream ended: its journal may be evicted, finished ones before abandoned ones."""
        journal = self._journals.get(stream)
        if journal is None or journal.epoch != epoch or journal.end_reason is reason:
            return
        self._reactivate(stream, journal)
        journal.end_reason = reason
        if reason is EndReason.FINISHED:
            self._shares.add_bytes(journal.client, -journal.size)
            self._finished_bytes += journal.size
            self._finished[stream] = None
            while self._finished_bytes > self.max_bytes // FINISHED_DIVISOR:
                self._evict(next(iter(self._finished)))
        else:
            self._shares.mark_abandoned(journal.client, stream)

    def _reactivate(self, stream: str, journal: JournalReplica) -> None:
        """Make a journal live again: only its owner may end it."""
        journal.orphaned_at = None
        if journal.end_reason is EndReason.FINISHED:
            del self._finished[stream]
            self._finished_bytes -= journal.size
            self._shares.add_bytes(journal.client, journal.size)
        elif journal.end_reason is EndReason.ABANDONED:
            self._shares.unmark_abandoned(journal.client, stream)
        journal.end_reason = None

    def mark_copied(self, stream: str, epoch: Epoch, replicas: Iterable[str]) -> None:
        """Record that these peers have the journal, too."""
        journal = self._journals.get(stream)
        if journal is not None and journal.epoch == epoch:
            journal.copied_to.update(replicas)

    def drop(self, stream: str, epoch: Epoch) -> None:
        """Remove a journal whose owner has other replicas, or that no client can request."""
        journal = self._journals.get(stream)
        if journal is not None and journal.epoch == epoch:
            self._remove(stream)

    def mark_orphaned(self, stream: str, epoch: Epoch, now: float) -> None:
        """Record that the owner's connection broke: the owner may be dead, and its client needs time to come back."""
        journal = self._journals.get(stream)
        if journal is not None and journal.written_epoch == epoch and journal.end_reason is None:
            journal.orphaned_at = now
            self._orphan_candidates.add(stream)

    def has(self, stream: str, epoch: Epoch) -> bool:
        """Return whether the stream's journal of this epoch is stored."""
        journal = self._journals.get(stream)
        return journal is not None and journal.written_epoch == epoch

    def orphans(self, now: float) -> Iterator[tuple[str, JournalReplica]]:
        """Yield the unfinished journals whose owner is gone for ORPHAN_AFTER_S: no owner replicates them."""
        for stream in list(self._orphan_candidates):
            journal = self._journals.get(stream)
            if journal is None or journal.orphaned_at is None or journal.end_reason is not None:
                self._orphan_candidates.discard(stream)
            elif now - journal.orphaned_at >= ORPHAN_AFTER_S:
                yield stream, journal

    def take_over(self, stream: str, owner: str, now: float, claim: StreamClaim = NO_CLAIM) -> JournalSnapshot | None:
        """Fence all older owners of a stream: from now on their messages are refused.

        Args:
            stream: the stream's id.
            owner: unique to this takeover; a node that takes a stream over twice is two owners.
            now: unix seconds.
            claim: of the client that resumes the stream.

        Returns:
            The journal for the new owner; None where none is stored, or the stream is another client's.
        """
        journal = self._journals.get(stream)
        if journal is None or not read_claim(journal.header).admits(claim):
            return None
        self._reactivate(stream, journal)
        journal.epoch = Epoch(journal.epoch.number + 1, owner)
        journal.updated_at = journal.orphaned_at = now
        self._orphan_candidates.add(stream)
        self._journals.move_to_end(stream)
        return JournalSnapshot(
            journal.written_epoch, journal.epoch.number, journal.header, journal.seq, bytes(journal.lines)
        )

    def has_expired(self, stream: str, claim: StreamClaim = NO_CLAIM) -> bool:
        """Return whether the stream's journal was stored here, and evicted; False also for another client's stream."""
        return stream in self._expired and self._expired[stream].admits(claim)

    def unfinished(self) -> Iterator[tuple[str, JournalReplica]]:
        """Yield the journals that a client may still need when this node terminates: abandoned ones last."""
        for reason in (None, EndReason.ABANDONED):
            yield from ((stream, journal) for stream, journal in self._journals.items() if journal.end_reason is reason)

    def ended(self) -> Iterator[tuple[str, JournalReplica]]:
        """Yield the journals whose owners had ended their streams."""
        yield from ((stream, journal) for stream, journal in self._journals.items() if journal.end_reason is not None)

    def expire(self, now: float) -> None:
        """Evict the journals without a record for RETENTION_S."""
        while self._journals:
            stream, journal = next(iter(self._journals.items()))
            if now - journal.updated_at <= RETENTION_S:
                return
            self._evict(stream)

    def _make_room(self, journal: JournalReplica, more: int, without_overhead: int, stream: str) -> None:
        """Evict until `more` bytes of a journal fit. Raises ReplicaRefused where they cannot."""
        if without_overhead > self.max_journal_bytes:
            raise ReplicaRefused(RefusalReason.TOO_LARGE)
        if journal.end_reason is not EndReason.FINISHED:
            self._enforce_share(journal.client, more, stream)
        while self.held_bytes + more > self.max_bytes:
            victim = next((name for name in self._finished if name != stream), None) or self._shares.next_victim(stream)
            if victim is None:
                raise ReplicaRefused(RefusalReason.FULL)
            self._evict(victim)

    def _enforce_share(self, client: str, more: int, stream: str) -> None:
        """Keep a client within half of the store, by its abandoned journals. Raises ReplicaRefused where it exceeds."""
        while self._shares.bytes_of(client) + more > self.max_bytes // 2:
            victim = self._shares.oldest_abandoned(client, stream)
            if victim is None:
                raise ReplicaRefused(RefusalReason.OVER_SHARE)
            self._evict(victim)

    def _add_bytes(self, journal: JournalReplica, more: int) -> None:
        self.held_bytes += more
        if journal.is_finished:
            self._finished_bytes += more
        else:
            self._shares.add_bytes(journal.client, more)

    def _evict(self, stream: str) -> None:
        """Remove a journal, and list the stream as expired."""
        self._expired[stream] = read_claim(self._journals[stream].header)
        self._remove(stream)
        while len(self._expired) > MAX_EXPIRED:
            self._expired.popitem(last=False)

    def _remove(self, stream: str) -> None:
        journal = self._journals.pop(stream, None)
        if journal is None:
            return
        self._add_bytes(journal, -journal.size)
        self._finished.pop(stream, None)
        if journal.end_reason is EndReason.ABANDONED:
            self._shares.unmark_abandoned(journal.client, stream)


def _skip_lines(lines: bytes, count: int) -> bytes:
    """Return the lines after the first `count`."""
    at = 0
    for _ in range(count):
        at = lines.find(b"\n", at) + 1
        if not at:
            return b""
    return lines[at:]
