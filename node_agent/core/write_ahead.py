"""Write-ahead: an event reaches its client only after the keepers have its line, and no client waits long for that.

The owner's side of one stream. It has copies at some keepers, each in one of three conditions:

    OPENING  the journal was sent whole, nothing was acknowledged yet
    SYNCED   it has all lines that were ever delivered; an event waits for every synced copy
    LATE     it did not acknowledge for `lag_s`: no event waits for it. It still gets every line, and is synced again
             once it has them all, if no other took its place until then

Rules kept here:

* while a copy is synced, a delivered event is on it: so one surviving keeper is enough to go on without a loss;
* the wait for a line is bounded by `lag_s`; what goes out with no synced copy is counted as a gap;
* a copy that is late, lost or leaving is replaced, and let go of when the replacement is synced;
* an acknowledgement counts for the copy that it is of, not for a later one at the same keeper;
* a refusal as stale means that someone newer owns the stream: nothing may be delivered any more.

No clock and no sockets: instants come as arguments (seconds of any clock that does not go back), and what is to be
sent comes out as instructions. Lines go to all `copies`, as they are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from node_agent.core import keeper as keeping
from node_agent.core.epochs import Epoch

WANTED = 2
LAG_S = 0.05
MAX_COPIES = 4


class Condition(Enum):
    OPENING = "opening"
    SYNCED = "synced"
    LATE = "late"


@dataclass(eq=False, slots=True)
class Copy:
    """One keeper's. acked: the last line that it has for certain; waiting_since: of the oldest line that it was sent
    and did not acknowledge, None for none."""

    keeper: str
    condition: Condition
    acked: int = -1
    waiting_since: float | None = None
    leaving: bool = False


@dataclass(frozen=True)
class Open:
    """Send the whole journal to this copy's keeper."""

    copy: Copy


@dataclass(frozen=True)
class Forget:
    """Tell this keeper that its copy is not needed."""

    keeper: str


Instruction = Open | Forget


@dataclass(eq=False)
class WriteAhead:
    """opening: what the stream began with; log: all its lines; wanted: how many copies.

    seq: number of the last line; delivered: of the last whose event the client was sent.
    """

    stream: str
    epoch: Epoch
    opening: bytes
    wanted: int = WANTED
    lag_s: float = LAG_S
    log: bytearray = field(default_factory=bytearray)
    seq: int = 0
    delivered: int = 0
    gaps: int = 0
    fenced: bool = False
    copies: dict[str, Copy] = field(default_factory=dict)
    _awaited: list[Copy] = field(default_factory=list)
    _waiting: deque[tuple[int, float]] = field(default_factory=deque)
    _due: int = 0
    _unfit: set[str] = field(default_factory=set)

    def write(self, lines: Sequence[bytes], now: float) -> int:
        """Account for new lines, which are to be sent to all copies; the number of the first."""
        first = self.seq + 1
        self.seq += len(lines)
        for line in lines:
            self.log += line
        self._waiting.append((self.seq, now))
        for copy in self.copies.values():
            if copy.waiting_since is None:
                copy.waiting_since = now
        return first

    def deliverable(self) -> int:
        """The number of the last event that may be delivered now."""
        upto = self.seq
        for copy in self._awaited:
            if copy.acked < upto:
                upto = copy.acked
        return max(upto, self._due)

    def wait_until(self) -> float | None:
        """Until when the oldest event that waits may have to; None where none waits."""
        return self._waiting[0][1] + self.lag_s if self._waiting else None

    def expire(self, now: float) -> None:
        """No event waits longer than `lag_s`; the copies that it waited for are late."""
        due = max((seq for seq, since in self._waiting if now >= since + self.lag_s), default=0)
        if due <= self._due:
            return
        self._due = due
        for copy in self._awaited:
            is_overdue = copy.condition is Condition.SYNCED or self._is_overdue(copy, now)
            if copy.acked < due and is_overdue:
                copy.condition = Condition.LATE
        self._sort_out()

    def _is_overdue(self, copy: Copy, now: float) -> bool:
        return copy.waiting_since is not None and now >= copy.waiting_since + self.lag_s

    def deliver(self, upto: int) -> None:
        """The events up to this number go to the client now."""
        if upto > self.delivered and not any(copy.acked >= upto for copy in self.copies.values()):
            self.gaps += 1
        self.delivered = max(self.delivered, upto)
        while self._waiting and self._waiting[0][0] <= upto:
            self._waiting.popleft()

    @property
    def synced(self) -> list[str]:
        """The keepers that have every delivered line."""
        return [name for name, copy in self.copies.items() if copy.condition is Condition.SYNCED]

    def acknowledged(self, copy: Copy, seq: int, now: float) -> None:
        """The keeper of this copy has all lines up to `seq`."""
        if seq <= copy.acked or self.copies.get(copy.keeper) is not copy:
            return
        copy.acked = seq
        copy.waiting_since = now if seq < self.seq else None
        if copy.condition is not Condition.SYNCED and seq >= self.delivered:
            copy.condition = Condition.SYNCED
            self._sort_out()

    def refused(self, keeper: str, why: str, now: float) -> list[Instruction]:
        """A keeper would not have it: send all again after a gap, go elsewhere for lack of room, stop when stale."""
        copy = self.copies.get(keeper)
        if copy is None:
            return []
        if why == keeping.STALE:
            self.fenced = True
            self.copies.clear()
            self._sort_out()
            return []
        if why in (keeping.GAP, keeping.UNKNOWN) and copy.condition is not Condition.OPENING:
            return [self._open(keeper, now)]
        self._unfit.add(keeper)
        self.lost(keeper)
        return []

    def lost(self, keeper: str) -> None:
        """The connection to the keeper is gone, and with it all that may be known of its copy."""
        if self.copies.pop(keeper, None) is not None:
            self._sort_out()

    def review(self, ranked: Sequence[str], fit: Sequence[str], now: float) -> list[Instruction]:
        """Replace what is late or leaving, from `ranked` keepers, the best first. fit: those that may stay keepers."""
        if self.fenced:
            return []
        for name, copy in self.copies.items():
            copy.leaving = name not in fit
            if self._is_overdue(copy, now):
                copy.condition = Condition.LATE
        self._sort_out()
        good = [n for n, c in self.copies.items() if c.condition is not Condition.LATE and not c.leaving]
        able = [name for name in ranked if name not in self.copies and name not in self._unfit]
        room = min(self.wanted - len(good), MAX_COPIES - len(self.copies))
        opened: list[Instruction] = [self._open(name, now) for name in able[: max(0, room)]]
        return opened + self._let_go()

    def _let_go(self) -> list[Instruction]:
        synced = [n for n, c in self.copies.items() if c.condition is Condition.SYNCED and not c.leaving]
        if len(synced) < self.wanted:
            return []
        spare = [n for n, c in self.copies.items() if c.leaving or c.condition is Condition.LATE]
        spare += synced[self.wanted :]
        for name in spare:
            self.lost(name)
        return [Forget(name) for name in spare]

    def _open(self, keeper: str, now: float) -> Open:
        copy = self.copies[keeper] = Copy(keeper, Condition.OPENING, waiting_since=now)
        self._sort_out()
        return Open(copy)

    def _sort_out(self) -> None:
        """An event waits for the copies in sync; where there are none, for those that are about to be."""
        synced = [copy for copy in self.copies.values() if copy.condition is Condition.SYNCED]
        self._awaited = synced or [c for c in self.copies.values() if c.condition is Condition.OPENING]
