"""A circuit breaker: a peer that fails again and again is left alone for a while, then tried with one request.

    CLOSED --FAILURES in a row--> OPEN --its time is up--> one trial --succeeds--> CLOSED
                                   ^                           |
                                   +------ fails: twice as long+

Membership says whether a node is there; this says whether it does what it is asked. A peer can answer every probe and
lose every request. What counts as a failure is decided in `core/failure/attribution`; where no other node is left, a
request goes to a node in spite of its breaker (`core/routing/router`): one that is wrong must not be worse than none.
"""

from __future__ import annotations

FAILURE_THRESHOLD = 3
FIRST_OPEN_S = 1.0
MAX_OPEN_S = 30.0
TRIAL_S = 10.0
"""How long the one trial may take until another may be made: its end may never be reported."""


class CircuitBreaker:
    """Of one peer. Instants are the caller's, in seconds."""

    __slots__ = ("_failures", "_open_s", "_open_until", "_trial_until")

    def __init__(self) -> None:
        self._failures = 0
        self._open_s = 0.0
        self._open_until = 0.0
        self._trial_until = 0.0

    @property
    def is_closed(self) -> bool:
        return self._failures < FAILURE_THRESHOLD

    def allows(self, now: float) -> bool:
        """Whether a request may go there now."""
        return self._failures < FAILURE_THRESHOLD or (now >= self._open_until and now >= self._trial_until)

    def request_sent(self, now: float) -> None:
        """A request goes there; where the breaker is not closed, it is the trial."""
        if self._failures >= FAILURE_THRESHOLD:
            self._trial_until = now + TRIAL_S

    def succeeded(self) -> None:
        self._failures = 0
        self._open_s = 0.0

    def undecided(self) -> None:
        """A request ended in a way that says nothing of the node: if it was the trial, another may be made."""
        self._trial_until = 0.0

    def failed(self, now: float) -> None:
        """What was under way when it opened says nothing new: hundreds of streams may be lost in one moment."""
        if self._failures >= FAILURE_THRESHOLD and now < self._open_until:
            return
        self._failures += 1
        if self._failures >= FAILURE_THRESHOLD:
            self._open_s = min(MAX_OPEN_S, 2 * self._open_s) if self._open_s else FIRST_OPEN_S
            self._open_until = now + self._open_s
            self._trial_until = 0.0
