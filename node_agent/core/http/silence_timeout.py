"""Decide when the other side of an HTTP exchange has been silent for too long.

Rules kept here:

* until the other side has sent anything, the accept timeout counts, where there is one; after that the read timeout, or
  the keep-alive timeout if that is shorter and the other side has announced keep-alives;
* a silence counts only while this side reads;
* an elapsed timeout is checked a second time before it counts: timers run before received data is read, and if this
  process was suspended, data arrived meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

GRACE_S = 0.25
"""From an elapsed timeout to its second check, a quarter of the timeout at most."""

_MIN_WAIT_S = 0.001


@dataclass(slots=True)
class SilenceTimeout:
    """The timeouts of one exchange."""

    read_timeout_s: float
    """How long the other side may send nothing."""

    accept_timeout_s: float | None = None
    """The same until its first bytes; None for the read timeout, and once it has sent anything."""

    keepalive_timeout_s: float | None = None
    """At most so long once it has announced keep-alives; None for the read timeout."""

    sends_keepalives: bool = False
    """Whether it has announced keep-alives."""

    _overdue_since: float | None = None
    """The `silent_since` whose timeout was found elapsed once."""

    def on_first_bytes(self) -> bool:
        """End the accept timeout; return whether another timeout than before may count now."""
        changes = self.accept_timeout_s is not None or self.sends_keepalives
        self.accept_timeout_s = None
        return changes

    def allowed_s(self) -> float:
        """Return how long the other side may be silent now."""
        if self.accept_timeout_s is not None:
            return self.accept_timeout_s
        if self.sends_keepalives and self.keepalive_timeout_s:
            return min(self.read_timeout_s, self.keepalive_timeout_s)
        return self.read_timeout_s

    def next_check_s(self, now: float, silent_since: float, *, is_paused: bool) -> float | None:
        """Return the seconds until the next check; None where the other side has been silent for too long.

        Args:
            now: in seconds.
            silent_since: when it last sent anything, or when this side began to read.
            is_paused: whether this side does not read.
        """
        allowed_s, silent_s = self.allowed_s(), now - silent_since
        if is_paused:
            return max(allowed_s, _MIN_WAIT_S)
        if silent_s < allowed_s:
            return max(allowed_s - silent_s, _MIN_WAIT_S)
        if self._overdue_since != silent_since:
            self._overdue_since = silent_since
            return min(GRACE_S, allowed_s / 4)
        return None
