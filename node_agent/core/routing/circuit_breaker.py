"""Break the circuit to a peer that fails repeatedly: send it nothing for a while, then one trial request.

    CLOSED --FAILURE_THRESHOLD in a row--> OPEN --its time is up--> one trial --succeeds--> CLOSED
                                            ^                           |
                                            +------ fails: twice as long+

Membership detects whether a node is alive; the breaker detects whether it serves: a peer can answer every probe and
lose every request. `core/failure/attribution` decides what counts as a failure. Where no other node is left, a request
is sent to a node in spite of its breaker (`core/routing/router`): a wrong breaker must not be worse than none.
"""

from __future__ import annotations

FAILURE_THRESHOLD = 3
FIRST_OPEN_S = 1.0
MAX_OPEN_S = 30.0
TRIAL_S = 10.0
"""How long the trial may take until another is allowed: its end may never be reported."""


class CircuitBreaker:
    """The breaker of one peer. Instants are the caller's, in seconds."""

    __slots__ = ("_failures", "_open_s", "_open_until", "_trial_until")

    def __init__(self) -> None:
        self._failures = 0
        self._open_s = 0.0
        self._open_until = 0.0
        self._trial_until = 0.0

    @property
    def is_closed(self) -> bool:
        """True while fewer than FAILURE_THRESHOLD failures in a row were recorded."""
        return self._failures < FAILURE_THRESHOLD

    def allows(self, now: float) -> bool:
        """Return whether a request may be sent to the peer now."""
        return self._failures < FAILURE_THRESHOLD or (now >= self._open_until and now >= self._trial_until)

    def request_sent(self, now: float) -> None:
        """Record that a request is sent to the peer; where the breaker is not closed, it is the trial."""
        if self._failures >= FAILURE_THRESHOLD:
            self._trial_until = now + TRIAL_S

    def succeeded(self) -> None:
        """Record a success: the breaker closes, and when it next opens, FIRST_OPEN_S counts again."""
        self._failures = 0
        self._open_s = 0.0

    def undecided(self) -> None:
        """Record an outcome that does not show whether the peer works: if it was the trial, another is allowed."""
        self._trial_until = 0.0

    def failed(self, now: float) -> None:
        """Record a failure. While the breaker is open it does not count: hundreds of streams may be lost at once."""
        if self._failures >= FAILURE_THRESHOLD and now < self._open_until:
            return
        self._failures += 1
        if self._failures >= FAILURE_THRESHOLD:
            self._open_s = min(MAX_OPEN_S, 2 * self._open_s) if self._open_s else FIRST_OPEN_S
            self._open_until = now + self._open_s
            self._trial_until = 0.0
