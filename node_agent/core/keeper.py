"""A keeper: the journals that this node keeps for the streams of other nodes, unread, in bounded memory.

Rules kept here:

* an epoch only grows: once a stream was taken over, nothing of an older owner is accepted any more;
* lines come gapless: what was had already is skipped, what leaves a gap is refused, and the owner sends all again;
* a journal lives LIFE_S past its last line; its name is remembered as expired for a while after that;
* an orphan, whose owner is gone and whose client has not come back, is copied on, so that its keepers may go, too;
* at the bound of all journals together the finished ones go first, oldest first; then a new journal is refused, and a
  growing one too: its owner finds another keeper. A journal that is still growing is never thrown away for another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from node_agent.core.epochs import Epoch

LIFE_S = 300.0
MAX_JOURNAL_BYTES = 8 * 1024 * 1024
MAX_BYTES = 256 * 1024 * 1024
MAX_EXPIRED = 20_000
ORPHAN_AFTER_S = 1.0
"""A client comes back within that time, as a rule, and the new owner then looks after the copies."""


STALE, GAP, FULL, TOO_LARGE, UNKNOWN = "stale", "gap", "full", "too-large", "unknown"


class Refused(Exception):
    """why: stale (someone newer owns the stream), gap, full, too-large, unknown."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass
class KeptJournal:
    """opening: what the stream began with, for whoever goes on; lines: `seq` of them; touched_at: unix seconds.

    epoch: below it everything is refused; written_in: the epoch of the lines, lower once the journal was taken;
    orphan_since: when the connection of its owner broke, or when it was taken, until the new owner sends it anew;
    copied_to: peers that have it from this node.
    """

    epoch: Epoch
    written_in: Epoch
    opening: bytes
    seq: int
    lines: bytearray
    touched_at: float
    finished: bool = False
    orphan_since: float | None = None
    copied_to: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.opening) + len(self.lines)


@dataclass(frozen=True)
class Taken:
    """A journal as its new owner gets it. written_in: the epoch of its lines; number: of the new owner's epoch.

    Of several the one written in the highest epoch counts, however long another is: an owner that was cut off may
    have gone on for itself, and said something else than what the client was told since.
    """

    written_in: Epoch
    number: int
    opening: bytes
    seq: int
    lines: bytes


def best(taken: Sequence[Taken]) -> Taken:
    """The journal that the client's events came from."""
    return max(taken, key=lambda one: (one.written_in, one.seq))


@dataclass
class Keeper:
    """All that this node keeps, by stream id, in the order of the last line."""

    max_bytes: int = MAX_BYTES
    max_journal_bytes: int = MAX_JOURNAL_BYTES
    held_bytes: int = 0
    _kept: OrderedDict[str, KeptJournal] = field(default_factory=OrderedDict)
    _expired: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _left: set[str] = field(default_factory=set)  # streams whose journals may be orphans

    def __len__(self) -> int:
        return len(self._kept)

    def open(self, stream: str, epoch: Epoch, opening: bytes, seq: int, lines: bytes, now: float) -> int:
        """Keep a journal from its beginning, in place of an older owner's; the number of the last line had now.

        Raises Refused. Of one epoch the longer journal stays: the shorter is its beginning, come late.
        """
        known = self._kept.get(stream)
        if known is not None and known.epoch > epoch:
            raise Refused(STALE)
        if known is not None and known.written_in == epoch and known.seq >= seq:
            known.orphan_since = None
            return known.seq
        journal = KeptJournal(epoch, epoch, opening, seq, bytearray(lines), now)
        self._make_room(journal.size, journal.size - (known.size if known else 0), stream)
        self._drop(stream)
        self._kept[stream] = journal
        self.held_bytes += journal.size
        return seq

    def append(self, stream: str, epoch: Epoch, first: int, lines: bytes, now: float) -> int:
        """Keep lines number `first` and following; the number of the last line had now. Raises Refused."""
        journal = self._kept.get(stream)
        if journal is None:
            raise Refused(UNKNOWN)
        if journal.epoch > epoch:
            raise Refused(STALE)
        if journal.written_in != epoch:
            raise Refused(UNKNOWN)
        if first > journal.seq + 1:
            raise Refused(GAP)
        last = first - 1 + lines.count(b"\n")
        if first <= journal.seq:  # some of them came before
            lines = b"".join(lines.splitlines(keepends=True)[journal.seq + 1 - first :])
        if lines:
            self._make_room(journal.size + len(lines), len(lines), stream)
            journal.lines += lines
            journal.seq = max(journal.seq, last)
            self.held_bytes += len(lines)
        journal.touched_at = now
        self._kept.move_to_end(stream)
        return journal.seq

    def finish(self, stream: str, epoch: Epoch) -> None:
        """The client has all of it: the first to go when room is needed."""
        journal = self._kept.get(stream)
        if journal is not None and journal.epoch == epoch:
            journal.finished = True

    def copied(self, stream: str, epoch: Epoch, keepers: Iterable[str]) -> None:
        """These peers have the journal, too."""
        journal = self._kept.get(stream)
        if journal is not None and journal.epoch == epoch:
            journal.copied_to.update(keepers)

    def forget(self, stream: str, epoch: Epoch) -> None:
        """Its owner has other keepers."""
        journal = self._kept.get(stream)
        if journal is not None and journal.epoch == epoch:
            self._drop(stream)

    def orphaned(self, stream: str, epoch: Epoch, now: float) -> None:
        """The owner's connection broke: it may be dead, and its client may need some time to come back."""
        journal = self._kept.get(stream)
        if journal is not None and journal.written_in == epoch and not journal.finished:
            journal.orphan_since = now
            self._left.add(stream)

    def orphans(self, now: float) -> Iterator[tuple[str, KeptJournal]]:
        """Unfinished journals whose owner is gone for ORPHAN_AFTER_S: their copies are nobody's to look after."""
        for stream in list(self._left):
            journal = self._kept.get(stream)
            if journal is None or journal.orphan_since is None or journal.finished:
                self._left.discard(stream)
            elif now - journal.orphan_since >= ORPHAN_AFTER_S:
                yield stream, journal

    def take(self, stream: str, owner: str, now: float) -> Taken | None:
        """Give the journal to a new owner: from here on all older ones are refused. None where there is none.

        owner: a name of this takeover alone; a node that takes a stream twice is two owners.
        """
        journal = self._kept.get(stream)
        if journal is None:
            return None
        journal.epoch = Epoch(journal.epoch.number + 1, owner)
        journal.touched_at = journal.orphan_since = now
        self._left.add(stream)
        self._kept.move_to_end(stream)
        return Taken(journal.written_in, journal.epoch.number, journal.opening, journal.seq, bytes(journal.lines))

    def has_expired(self, stream: str) -> bool:
        return stream in self._expired

    def unfinished(self) -> Iterator[tuple[str, KeptJournal]]:
        """What somebody may still need, when this node goes."""
        return ((stream, journal) for stream, journal in self._kept.items() if not journal.finished)

    def expire(self, now: float) -> None:
        """Drop what nobody touched for LIFE_S."""
        while self._kept:
            stream, journal = next(iter(self._kept.items()))
            if now - journal.touched_at <= LIFE_S:
                return
            self._drop(stream)
            self._remember(stream)

    def _remember(self, stream: str) -> None:
        self._expired[stream] = None
        while len(self._expired) > MAX_EXPIRED:
            self._expired.popitem(last=False)

    def _make_room(self, journal_bytes: int, more: int, stream: str) -> None:
        if journal_bytes > self.max_journal_bytes:
            raise Refused(TOO_LARGE)
        if self.held_bytes + more <= self.max_bytes:
            return
        for other, journal in list(self._kept.items()):
            if journal.finished and other != stream:
                self._drop(other)
                self._remember(other)
                if self.held_bytes + more <= self.max_bytes:
                    return
        raise Refused(FULL)

    def _drop(self, stream: str) -> None:
        journal = self._kept.pop(stream, None)
        if journal is not None:
            self.held_bytes -= journal.size
