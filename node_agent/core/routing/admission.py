"""Admit a request, queue it, or reject it with 429 and a Retry-After that is estimated from the admission rate.

    arrives --a node has room--> admitted
            --none has, the queue has--> waits for its key's turn --a node has room--> admitted
                                                                  --too long--> 429
            --the queue is full--> 429, for the newest of the key that fills it

Rules kept here: no request overtakes a waiting one of its key, and keys take turns (`core/routing/fair_queue`); the
queue is bounded in number and in time, and while several keys wait none has more than its part of it; Retry-After
follows from the recent admission rate, jittered, so that rejected clients do not all retry together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from node_agent.core.routing.fair_queue import FairQueue

MAX_WAITING = 256
MAX_WAIT_S = 4.0
"""Clients of a model wait seconds for a first token anyhow; beyond this a rejection serves them better. Less than the
time until a stream that waits for its engine gets its head: a status can be sent only before."""

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
_RATE_WINDOW_S = 10.0
"""About how far back the admission rate is measured."""

_NEWEST = 0.2
"""The part of the newest answer in what a key's requests usually use."""

_MAX_USUAL = 1_024
"""Keys of which that is remembered."""


@dataclass(frozen=True)
class Ticket:
    """A waiting request's place in the queue."""

    number: int
    deadline: float
    """When it is rejected, in the caller's seconds."""

    weight: int = 1
    """Tokens that its key pays for it: as many as its requests usually use, at most those of its estimate."""


@dataclass(frozen=True)
class Rejection:
    """A 429."""

    reason: str
    """`queue-full`, `key-full` (of the caller's part of it) or `waited-too-long`."""

    retry_after_s: float


class Admission:
    """The queue of one entry node. Instants are the caller's, in seconds; chance: uniform in [0, 1)."""

    def __init__(self, max_waiting: int = MAX_WAITING, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._waiting: OrderedDict[int, Ticket] = OrderedDict()  # in the order of their deadlines
        self._queue = FairQueue()
        self._usual: OrderedDict[str, float] = OrderedDict()  # tokens of a request, by key
        self._displaced: list[Ticket] = []
        self._numbers = 0
        self._rate = 0.0
        self._updated_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next(self) -> Ticket | None:
        """The ticket to admit as soon as a node has room, its key's turn; None where none waits."""
        number = self._queue.next
        return self._waiting[number] if number is not None else None

    def next_deadline(self) -> float | None:
        """Return the oldest ticket's deadline, which is the earliest: all wait equally long."""
        ticket = self._oldest
        return ticket.deadline if ticket is not None else None

    @property
    def _oldest(self) -> Ticket | None:
        return next(iter(self._waiting.values()), None)

    def may_bypass_queue(self) -> bool:
        """Return whether an arriving request may be admitted at once where a node has room."""
        return not self._waiting

    def enqueue(self, at: float, chance: float, key: str = "", weight: int = 1) -> Ticket | Rejection:
        """Queue a request. key: of its caller; weight: its estimated tokens.

        Returns:
            Its ticket, or a rejection where the queue is full and its key has its part of it. Where another key has
            more than its part, that one's newest ticket makes room: `displaced` returns it.
        """
        if len(self._waiting) >= self._max_waiting:
            own, keys = self._queue.waiting(key), self._keys_with(key)
            if own >= max(1, self._max_waiting // keys):
                return Rejection("queue-full" if keys == 1 else "key-full", self.retry_after_s(at, chance, key))
            if (newest := self._queue.newest_of_longest()) is not None:
                self._displaced.append(self._remove(newest))
        self._numbers += 1
        paid = min(weight, round(self._usual.get(key, weight)))
        ticket = Ticket(self._numbers, at + self._max_wait_s, max(1, paid))
        self._waiting[ticket.number] = ticket
        self._queue.push(ticket.number, key, ticket.weight)
        return ticket

    def _keys_with(self, key: str) -> int:
        """Return how many keys have waiting requests, or will have with one of this key."""
        return self._queue.keys + (not self._queue.waiting(key))

    def displaced(self) -> list[Ticket]:
        """Return the tickets that had to make room since the last call."""
        displaced, self._displaced = self._displaced, []
        return displaced

    def _remove(self, number: int) -> Ticket:
        self._queue.remove(number)
        return self._waiting.pop(number)

    def admitted(self, at: float, ticket: Ticket | None = None) -> None:
        """Record that a request was sent to a node. ticket: None where it did not wait."""
        if ticket is not None:
            self._queue.serve(ticket.number)
            self._waiting.pop(ticket.number, None)
        self._count(at, 1.0)

    def used(self, key: str, tokens: int, paid: int) -> None:
        """Record the tokens that a request used, and let its key pay for what it has not yet.

        paid: its ticket's weight; 0 where it did not wait, and so took nothing from others.
        """
        before = self._usual.pop(key, tokens)
        self._usual[key] = before + _NEWEST * (tokens - before)
        if len(self._usual) > _MAX_USUAL:
            self._usual.popitem(last=False)
        if paid:
            self._queue.charge(key, tokens - paid)

    def give_back(self, key: str, paid: int) -> None:
        """Return to a key what it has paid for a request that no node has served."""
        self._queue.charge(key, -paid)

    def cancel(self, ticket: Ticket) -> None:
        """Remove a request whose client is gone."""
        if ticket.number in self._waiting:
            self._remove(ticket.number)

    def pop_expired(self, at: float) -> list[Ticket]:
        """Remove and return the tickets whose deadline has passed."""
        expired = []
        while (ticket := self._oldest) is not None and ticket.deadline <= at:
            self._queue.remove(ticket.number, waited_in_vain=True)
            expired.append(self._waiting.pop(ticket.number))
        return expired

    def timeout_rejection(self, at: float, chance: float, key: str = "") -> Rejection:
        """Return the rejection of a request that waited too long."""
        return Rejection("waited-too-long", self.retry_after_s(at, chance, key))

    def displaced_rejection(self, at: float, chance: float, key: str = "") -> Rejection:
        """Return the rejection of a request that had to make room for another key's."""
        return Rejection("key-full", self.retry_after_s(at, chance, key))

    def retry_after_s(self, at: float, chance: float, key: str = "") -> float:
        """Return when a retry is worth it, in seconds: when all that wait now of its key are, at the recent rate.

        By then as many of each other key are, too, if so many wait.
        """
        self._count(at, 0.0)
        before = min(len(self._waiting) + 1, (self._queue.waiting(key) + 1) * self._keys_with(key))
        needed_s = before / self._rate if self._rate > 0 else MAX_RETRY_S
        return min(MAX_RETRY_S, max(MIN_RETRY_S, needed_s * (0.75 + 0.5 * chance)))

    def _count(self, at: float, admitted: float) -> None:
        """Update the admission rate, an exponentially decaying average."""
        if self._updated_at is None:
            self._updated_at = at
        gap_s = max(0.0, at - self._updated_at)
        self._updated_at = at
        self._rate *= 0.5 ** (gap_s / (_RATE_WINDOW_S / 2))
        self._rate += admitted * 0.6931 / (_RATE_WINDOW_S / 2)
