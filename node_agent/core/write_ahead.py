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
* a refusal as stale means that someone newer owns the stream: nothing may be delivered any more.

No clock and no sockets: instants come as arguments (seconds of any clock that does not go back), and what is to be
sent comes out as instructions.
"""

from __future__ import annotations

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


@dataclass
class Copy:
    """sent, acked: numbers of lines; waiting_since: of the oldest line that was not acknowledged, None for none."""

    condition: Condition
    sent: int
    acked: int = -1
    waiting_since: float | None = None
    leaving: bool = False


@dataclass(frozen=True)
class Open:
    """Send the whole journal to this keeper."""

    keeper: str


@dataclass(frozen=True)
class Append:
    """Send the newest lines, from number `first` on."""

    keeper: str
    first: int


@dataclass(frozen=True)
class Forget:
    """Tell this keeper that its copy is not needed."""

    keeper: str


Instruction = Open | Append | Forget


@dataclass
class WriteAhead:
    """opening: what the stream began with; log: all its lines; wanted: how many copies."""

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
    _unfit: set[str] = field(default_factory=set)

    def write(self, lines: Sequence[bytes], now: float) -> list[Instruction]:
        """Account for new lines; what to send where."""
        first = self.seq + 1
        self.seq += len(lines)
        self.log += b"".join(lines)
        for copy in self.copies.values():
            copy.sent = self.seq
            if copy.waiting_since is None:
                copy.waiting_since = now
        return [Append(name, first) for name in self.copies]

    def wait_until(self, now: float) -> float | None:
        """Until when the newest event has to wait for an acknowledgement; None when it may be delivered now."""
        awaited = [copy for copy in self._awaited() if copy.acked < self.seq]
        until = None
        for copy in awaited:
            since = now if copy.waiting_since is None else copy.waiting_since
            if now >= since + self.lag_s:
                copy.condition = Condition.LATE
            else:
                until = max(until or 0.0, since + self.lag_s)
        return until

    def deliver(self) -> None:
        """The newest event goes to the client now."""
        if self.seq > self.delivered and not any(copy.acked >= self.seq for copy in self.copies.values()):
            self.gaps += 1
        self.delivered = self.seq

    def _awaited(self) -> list[Copy]:
        synced = [copy for copy in self.copies.values() if copy.condition is Condition.SYNCED]
        return synced or [copy for copy in self.copies.values() if copy.condition is Condition.OPENING]

    @property
    def synced(self) -> list[str]:
        """The keepers that have every delivered line."""
        return [name for name, copy in self.copies.items() if copy.condition is Condition.SYNCED]

    def acknowledged(self, keeper: str, seq: int, now: float) -> None:
        copy = self.copies.get(keeper)
        if copy is None or seq <= copy.acked:
            return
        copy.acked = seq
        copy.waiting_since = now if copy.acked < copy.sent else None
        if copy.acked >= self.delivered:
            copy.condition = Condition.SYNCED

    def refused(self, keeper: str, why: str, now: float) -> list[Instruction]:
        """A keeper would not have it: send all again after a gap, go elsewhere for lack of room, stop when stale."""
        if keeper not in self.copies:
            return []
        if why == keeping.STALE:
            self.fenced = True
            self.copies.clear()
            return []
        if why in (keeping.GAP, keeping.UNKNOWN) and self.copies[keeper].condition is not Condition.OPENING:
            return [self._open(keeper, now)]
        del self.copies[keeper]
        self._unfit.add(keeper)
        return []

    def lost(self, keeper: str) -> None:
        """The connection to the keeper is gone, and with it all that may be known of its copy."""
        self.copies.pop(keeper, None)

    def review(self, ranked: Sequence[str], fit: Sequence[str], now: float) -> list[Instruction]:
        """Replace what is late or leaving, from `ranked` keepers, the best first. fit: those that may stay keepers."""
        if self.fenced:
            return []
        for name, copy in self.copies.items():
            copy.leaving = name not in fit
        self.wait_until(now)
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
            del self.copies[name]
        return [Forget(name) for name in spare]

    def _open(self, keeper: str, now: float) -> Open:
        self.copies[keeper] = Copy(Condition.OPENING, self.seq, waiting_since=now)
        return Open(keeper)
