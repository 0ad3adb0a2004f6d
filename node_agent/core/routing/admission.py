"""Admit a request, queue it, or reject it with 429 and a Retry-After that is estimated from the admission rate.

    arrives --a node has room--> admitted
            --none has, the queue has--> waits, first come first served --a node has room--> admitted
                                                                        --too long--> 429
            --the queue is full--> 429

Rules kept here: no request overtakes a waiting one; the queue is bounded in number and in time; Retry-After follows
from the recent admission rate, jittered, so that rejected clients do not all retry together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_WAITING = 256
MAX_WAIT_S = 4.0
"""Clients of a model wait seconds for a first token anyhow; beyond this a rejection serves them better. Less than the
time until a stream that waits for its engine gets its head: a status can be sent only before."""

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
_RATE_WINDOW_S = 10.0
"""About how far back the admission rate is measured."""


@dataclass(frozen=True)
class Ticket:
    """A waiting request's place in the queue."""

    number: int
    deadline: float
    """When it is rejected, in the caller's seconds."""


@dataclass(frozen=True)
class Rejection:
    """A 429."""

    reason: str
    """`queue-full` or `waited-too-long`."""

    retry_after_s: float


class Admission:
    """The queue of one entry node. Instants are the caller's, in seconds; chance: uniform in [0, 1)."""

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
        """The ticket to admit as soon as a node has room; None where none waits."""
        return next(iter(self._waiting.values()), None)

    def next_deadline(self) -> float | None:
        """Return the first ticket's deadline, which is the earliest: all wait equally long."""
        ticket = self.next
        return ticket.deadline if ticket is not None else None

    def may_bypass_queue(self) -> bool:
        """Return whether an arriving request may be admitted at once where a node has room."""
        return not self._waiting

    def enqueue(self, at: float, chance: float) -> Ticket | Rejection:
        """Queue a request. Returns its ticket, or a rejection where the queue is full."""
        if len(self._waiting) >= self._max_waiting:
            return Rejection("queue-full", self.retry_after_s(at, chance))
        self._numbers += 1
        ticket = Ticket(self._numbers, at + self._max_wait_s)
        self._waiting[ticket.number] = ticket
        return ticket

    def admitted(self, at: float, ticket: Ticket | None = None) -> None:
        """Record that a request was sent to a node. ticket: None where it did not wait."""
        if ticket is not None:
            self._waiting.pop(ticket.number, None)
        self._count(at, 1.0)

    def cancel(self, ticket: Ticket) -> None:
        """Remove a request whose client is expired."""
        self._waiting.pop(ticket.number, None)

    def pop_expired(self, at: float) -> list[Ticket]:
        """Remove and return the tickets whose deadline has passed."""
        expired = []
        while (ticket := self.next) is not None and ticket.deadline <= at:
            expired.append(self._waiting.pop(ticket.number))
        return expired

    def timeout_rejection(self, at: float, chance: float) -> Rejection:
        """Return the rejection of a request that waited too long."""
        return Rejection("waited-too-long", self.retry_after_s(at, chance))

    def retry_after_s(self, at: float, chance: float) -> float:
        """Estimate when a retry is worth it: when all that wait now were admitted, at the recent rate."""
        self._count(at, 0.0)
        needed_s = (len(self._waiting) + 1) / self._rate if self._rate > 0 else MAX_RETRY_S
        return min(MAX_RETRY_S, max(MIN_RETRY_S, needed_s * (0.75 + 0.5 * chance)))

    def _count(self, at: float, admitted: float) -> None:
        """Update the admission rate, an exponentially decaying average."""
        if self._updated_at is None:
            self._updated_at = at
        gap_s = max(0.0, at - self._updated_at)
        self._updated_at = at
        self._rate *= 0.5 ** (gap_s / (_RATE_WINDOW_S / 2))
        self._rate += admitted * 0.6931 / (_RATE_WINDOW_S / 2)
