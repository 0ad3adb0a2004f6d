"""Whether a request may come in now, has to wait for a moment, or hears 429 with an honest Retry-After.

    arrives --a node can take it--> goes there
            --none can, room in the queue--> waits, first come first served --a node can--> goes there
                                                                            --too long--> 429
            --no room--> 429

Rules kept here: nobody overtakes who waits; the queue is bounded in number and in time; what Retry-After promises
follows from how fast requests were let in lately, spread, so that those sent away do not all come back together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_WAITING = 256
MAX_WAIT_S = 4.0
"""Clients of a model wait seconds for a first token anyhow; beyond this they had better be told. Less than it takes
until a stream that waits for its engine gets its head: a status can be told only before."""

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
_RATE_WINDOW_S = 10.0
"""How far back the rate of those let in is measured, about."""


@dataclass(frozen=True)
class Ticket:
    """Of a request that waits. due: when its patience ends, in the caller's seconds."""

    number: int
    deadline: float


@dataclass(frozen=True)
class Rejection:
    """429. why: `queue-full` or `waited-too-long`."""

    reason: str
    retry_after_s: float


class Admission:
    """Of one entry. Instants are the caller's, in seconds; chance: uniform in [0, 1)."""

    def __init__(self, max_waiting: int = MAX_WAITING, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._waiting: OrderedDict[int, Ticket] = OrderedDict()
        self._numbers = 0
        self._rate = 0.0
        self._updated_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next(self) -> Ticket | None:
        """Whose turn it is as soon as a node can take something."""
        return next(iter(self._waiting.values()), None)

    def next_deadline(self) -> float | None:
        """When the first one's patience ends: they all have the same."""
        ticket = self.next
        return ticket.deadline if ticket is not None else None

    def may_bypass_queue(self) -> bool:
        """Whether a request that arrives may go straight to a node that can take it."""
        return not self._waiting

    def enqueue(self, at: float, chance: float) -> Ticket | Rejection:
        """A request that has to wait."""
        if len(self._waiting) >= self._max_waiting:
            return Rejection("queue-full", self.retry_after_s(at, chance))
        self._numbers += 1
        ticket = Ticket(self._numbers, at + self._max_wait_s)
        self._waiting[ticket.number] = ticket
        return ticket

    def admitted(self, at: float, ticket: Ticket | None = None) -> None:
        """A request went to a node, from the queue or straight."""
        if ticket is not None:
            self._waiting.pop(ticket.number, None)
        self._count(at, 1.0)

    def cancel(self, ticket: Ticket) -> None:
        """Its client is gone."""
        self._waiting.pop(ticket.number, None)

    def pop_expired(self, at: float) -> list[Ticket]:
        """Those whose patience ended: they wait no more."""
        gone = []
        while (ticket := self.next) is not None and ticket.deadline <= at:
            gone.append(self._waiting.pop(ticket.number))
        return gone

    def timeout_rejection(self, at: float, chance: float) -> Rejection:
        """What an overdue one hears."""
        return Rejection("waited-too-long", self.retry_after_s(at, chance))

    def retry_after_s(self, at: float, chance: float) -> float:
        """When it is worth coming back: about when all who wait now were let in, at the rate of late."""
        self._count(at, 0.0)
        needed_s = (len(self._waiting) + 1) / self._rate if self._rate > 0 else MAX_RETRY_S
        return min(MAX_RETRY_S, max(MIN_RETRY_S, needed_s * (0.75 + 0.5 * chance)))

    def _count(self, at: float, admitted: float) -> None:
        """The rate as an average that forgets."""
        if self._updated_at is None:
            self._updated_at = at
        gap_s = max(0.0, at - self._updated_at)
        self._updated_at = at
        self._rate *= 0.5 ** (gap_s / (_RATE_WINDOW_S / 2))
        self._rate += admitted * 0.6931 / (_RATE_WINDOW_S / 2)
