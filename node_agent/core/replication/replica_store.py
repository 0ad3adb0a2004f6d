"""A keeper: the journals that this node keeps for the streams of other nodes, unread, in bounded memory.

Rules kept here:

* an epoch only grows: once a stream was taken over, nothing of an older owner is accepted any more;
* lines come gapless: what was had already is skipped, what leaves a gap is refused, and the owner sends all again;
* a journal lives LIFE_S past its last line; its name is remembered as expired for a while after that;
* an orphan, whose owner is gone and whose client has not come back, is copied on, so that its keepers may go, too;
* at the bound of all journals together the finished ones go first, oldest first; then the abandoned ones, whose client
  left before the end and may come back: of the client that has most here, oldest first. Then a new journal is refused,
  and a growing one too: its owner finds another keeper. A live journal is never thrown away for another;
* finished journals have a FINISHED_SHAREth of the room: their clients want them only where a connection broke in the
  answer's last moment, and come back at once;
* one client has half of the room at most, for what is not finished; beyond it its own abandoned journals go, and then
  its own new lines are refused: however much one sends, there is room for others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.store_shares import StoreShares

RETENTION_S = 300.0
MAX_JOURNAL_BYTES = 8 * 1024 * 1024
"""Of one journal, its opening included."""

MAX_HEADER_BYTES = 6 * 1024 * 1024
"""Of one opening, which has the whole request: the rest of its journal is for the answer."""

MAX_BYTES = 256 * 1024 * 1024
FINISHED_DIVISOR = 32
OVERHEAD_BYTES = 1024
"""What a journal costs beside its bytes; without it a million empty ones would be free."""

MAX_EXPIRED = 20_000
ORPHAN_AFTER_S = 1.0
"""A client comes back within that time, as a rule, and the new owner then looks after the copies."""


STALE, GAP, FULL, TOO_LARGE, UNKNOWN = "stale", "gap", "full", "too-large", "unknown"
OVER_SHARE = "share"
"""The stream's client has its share of the room already."""

UNREADABLE = "unreadable"
"""A message that says nothing, or more than it has: of another version, or a fault of the owner."""

REASONS = frozenset({STALE, GAP, FULL, TOO_LARGE, UNKNOWN, OVER_SHARE, UNREADABLE})


class ReplicaRefused(Exception):
    """why: one of REASONS."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.reason = why


class EndReason(Enum):
    """How the owner of a journal ended. number: of the message that says so (`core/replication/protocol`)."""

    FINISHED = 0
    """The client has all of it."""

    ABANDONED = 1
    """The client left, or got an error: it may come back, and should it not, nobody needs the journal."""


@dataclass
class JournalReplica:
    """opening: what the stream began with, for whoever goes on; lines: `seq` of them; touched_at: unix seconds.

    epoch: below it everything is refused; written_in: the epoch of the lines, lower once the journal was taken;
    orphan_since: when the connection of its owner broke, or when it was taken, until the new owner sends it anew;
    copied_to: peers that have it from this node; client: whose stream it is, as its owner says.
    """

    epoch: Epoch
    written_epoch: Epoch
    header: bytes
    seq: int
    lines: bytearray
    updated_at: float
    client: str = ""
    end_reason: EndReason | None = None
    orphaned_at: float | None = None
    copied_to: set[str] = field(default_factory=set)

    @property
    def is_finished(self) -> bool:
        return self.end_reason is EndReason.FINISHED

    @property
    def size(self) -> int:
        return len(self.header) + len(self.lines) + OVERHEAD_BYTES


@dataclass(frozen=True)
class JournalSnapshot:
    """A journal as its new owner gets it. written_in: the epoch of its lines; number: of the new owner's epoch.

    Of several the one written in the highest epoch counts, however long another is: an owner that was cut off may
    have gone on for itself, and said something else than what the client was told since.
    """

    written_epoch: Epoch
    next_number: int
    header: bytes
    seq: int
    lines: bytes


def newest(taken: Sequence[JournalSnapshot]) -> JournalSnapshot:
    """The journal that the client's events came from."""
    return max(taken, key=lambda one: (one.written_epoch, one.seq))


@dataclass
class ReplicaStore:
    """All that this node keeps, by stream id, in the order of the last line.

    max_bytes: of all journals; max_journal_bytes: of one, without its overhead; held_bytes: of all there are.
    """

    max_bytes: int = MAX_BYTES
    max_journal_bytes: int = MAX_JOURNAL_BYTES
    held_bytes: int = 0
    _finished_bytes: int = 0
    _journals: OrderedDict[str, JournalReplica] = field(default_factory=OrderedDict)
    _finished: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _shares: StoreShares = field(default_factory=StoreShares)  # of clients, in what is not finished
    _expired: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _orphan_candidates: set[str] = field(default_factory=set)  # streams whose journals may be orphans

    def __len__(self) -> int:
        return len(self._journals)

    def open(
        self, stream: str, epoch: Epoch, opening: bytes, seq: int, lines: bytes, now: float, client: str = ""
    ) -> int:
        """Keep a journal from its beginning, in place of an older owner's; the number of the last line had now.

        client: whose share it counts to, the owner's node where it is not known. Raises Refused. Of one epoch the
        longer journal stays: the shorter is its beginning, come late.
        """
        known = self._journals.get(stream)
        if known is not None and known.epoch > epoch:
            raise ReplicaRefused(STALE)
        if known is not None and known.written_epoch == epoch and known.seq >= seq:
            known.orphaned_at = None
            return known.seq
        journal = JournalReplica(epoch, epoch, opening, seq, bytearray(lines), now, client or epoch.owner)
        self._make_room(journal, journal.size - (known.size if known else 0), len(opening) + len(lines), stream)
        self._remove(stream)
        self._journals[stream] = journal
        self._add_bytes(journal, journal.size)
        return seq

    def append(self, stream: str, epoch: Epoch, first: int, lines: bytes, now: float) -> int:
        """Keep lines number `first` and following; the number of the last line had now. Raises Refused."""
        journal = self._journals.get(stream)
        if journal is None:
            raise ReplicaRefused(UNKNOWN)
        if journal.epoch > epoch:
            raise ReplicaRefused(STALE)
        if journal.written_epoch != epoch:
            raise ReplicaRefused(UNKNOWN)
        if first > journal.seq + 1:
            raise ReplicaRefused(GAP)
        last = first - 1 + lines.count(b"\n")
        if first <= journal.seq:  # some of them came before
            lines = _skip_lines(lines, journal.seq + 1 - first)
        if lines:
            self._make_room(journal, len(lines), len(journal.header) + len(journal.lines) + len(lines), stream)
            journal.lines += lines
            journal.seq = max(journal.seq, last)
            self._add_bytes(journal, len(lines))
        journal.updated_at = now
        self._journals.move_to_end(stream)
        return journal.seq

    def end(self, stream: str, epoch: Epoch, how: EndReason) -> None:
        """Its owner has ended: it goes when room is needed, finished ones before abandoned ones."""
        journal = self._journals.get(stream)
        if journal is None or journal.epoch != epoch or journal.end_reason is how:
            return
        self._reactivate(stream, journal)
        journal.end_reason = how
        if how is EndReason.FINISHED:
            self._shares.add_bytes(journal.client, -journal.size)
            self._finished_bytes += journal.size
            self._finished[stream] = None
            while self._finished_bytes > self.max_bytes // FINISHED_DIVISOR:
                self._evict(next(iter(self._finished)))
        else:
            self._shares.mark_abandoned(journal.client, stream)

    def _reactivate(self, stream: str, journal: JournalReplica) -> None:
        """It has an owner: nothing may go but on its word."""
        journal.orphaned_at = None
        if journal.end_reason is EndReason.FINISHED:
            del self._finished[stream]
            self._finished_bytes -= journal.size
            self._shares.add_bytes(journal.client, journal.size)
        elif journal.end_reason is EndReason.ABANDONED:
            self._shares.unmark_abandoned(journal.client, stream)
        journal.end_reason = None

    def mark_copied(self, stream: str, epoch: Epoch, keepers: Iterable[str]) -> None:
        """These peers have the journal, too."""
        journal = self._journals.get(stream)
        if journal is not None and journal.epoch == epoch:
            journal.copied_to.update(keepers)

    def drop(self, stream: str, epoch: Epoch) -> None:
        """Its owner has other keepers, or nobody can ever ask for it."""
        journal = self._journals.get(stream)
        if journal is not None and journal.epoch == epoch:
            self._remove(stream)

    def mark_orphaned(self, stream: str, epoch: Epoch, now: float) -> None:
        """The owner's connection broke: it may be dead, and its client may need some time to come back."""
        journal = self._journals.get(stream)
        if journal is not None and journal.written_epoch == epoch and journal.end_reason is None:
            journal.orphaned_at = now
            self._orphan_candidates.add(stream)

    def has(self, stream: str, epoch: Epoch) -> bool:
        """Whether lines of this owner are kept."""
        journal = self._journals.get(stream)
        return journal is not None and journal.written_epoch == epoch

    def orphans(self, now: float) -> Iterator[tuple[str, JournalReplica]]:
        """Unfinished journals whose owner is gone for ORPHAN_AFTER_S: their copies are nobody's to look after."""
        for stream in list(self._orphan_candidates):
            journal = self._journals.get(stream)
            if journal is None or journal.orphaned_at is None or journal.end_reason is not None:
                self._orphan_candidates.discard(stream)
            elif now - journal.orphaned_at >= ORPHAN_AFTER_S:
                yield stream, journal

    def take_over(self, stream: str, owner: str, now: float) -> JournalSnapshot | None:
        """Give the journal to a new owner: from here on all older ones are refused. None where there is none.

        owner: a name of this takeover alone; a node that takes a stream twice is two owners.
        """
        journal = self._journals.get(stream)
        if journal is None:
            return None
        self._reactivate(stream, journal)
        journal.epoch = Epoch(journal.epoch.number + 1, owner)
        journal.updated_at = journal.orphaned_at = now
        self._orphan_candidates.add(stream)
        self._journals.move_to_end(stream)
        return JournalSnapshot(
            journal.written_epoch, journal.epoch.number, journal.header, journal.seq, bytes(journal.lines)
        )

    def has_expired(self, stream: str) -> bool:
        return stream in self._expired

    def unfinished(self) -> Iterator[tuple[str, JournalReplica]]:
        """What somebody may still need, when this node goes: first what nobody has abandoned."""
        for how in (None, EndReason.ABANDONED):
            yield from ((stream, journal) for stream, journal in self._journals.items() if journal.end_reason is how)

    def expire(self, now: float) -> None:
        """Drop what nobody touched for LIFE_S."""
        while self._journals:
            stream, journal = next(iter(self._journals.items()))
            if now - journal.updated_at <= RETENTION_S:
                return
            self._evict(stream)

    def _make_room(self, journal: JournalReplica, more: int, without_overhead: int, stream: str) -> None:
        """Room for `more` bytes of a journal. Raises Refused where there is none to be made."""
        if without_overhead > self.max_journal_bytes:
            raise ReplicaRefused(TOO_LARGE)
        if journal.end_reason is not EndReason.FINISHED:
            self._enforce_share(journal.client, more, stream)
        while self.held_bytes + more > self.max_bytes:
            spare = next((name for name in self._finished if name != stream), None) or self._shares.next_victim(stream)
            if spare is None:
                raise ReplicaRefused(FULL)
            self._evict(spare)

    def _enforce_share(self, client: str, more: int, stream: str) -> None:
        """Raises Refused where a client would have more than half, and nothing that it has abandoned."""
        while self._shares.bytes_of(client) + more > self.max_bytes // 2:
            spare = self._shares.oldest_abandoned(client, stream)
            if spare is None:
                raise ReplicaRefused(OVER_SHARE)
            self._evict(spare)

    def _add_bytes(self, journal: JournalReplica, more: int) -> None:
        self.held_bytes += more
        if journal.is_finished:
            self._finished_bytes += more
        else:
            self._shares.add_bytes(journal.client, more)

    def _evict(self, stream: str) -> None:
        """Drop it, and remember that it was here."""
        self._remove(stream)
        self._expired[stream] = None
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
    """The lines behind the first `count`."""
    at = 0
    for _ in range(count):
        at = lines.find(b"\n", at) + 1
        if not at:
            return b""
    return lines[at:]
