"""Decide when a server's certificate is loaded again, and when its end is a warning.

Rules kept here:

* what is stored is loaded when it has changed since the last attempt, so that a bad pair is not tried every time;
* an expired certificate does not replace one that ends later;
* under WARN_DAYS days before its end there is a warning, once in WARN_EVERY_S.
"""

from __future__ import annotations

from dataclasses import dataclass

WARN_DAYS = 14
WARN_EVERY_S = 86_400.0
_DAY_S = 86_400.0

FileVersions = tuple[tuple[int, ...] | None, ...]
"""Of each file: its inode, its times of change in nanoseconds and its size; None where it is not there."""


@dataclass
class CertificateWatch:
    """The certificate in use. tried: the versions of the last attempt; expires_at: unix seconds, of the one in use."""

    tried: FileVersions = ()
    expires_at: float = 0.0
    _warned_at: float | None = None

    def is_changed(self, versions: FileVersions) -> bool:
        """Return whether to load what is stored, and record the attempt."""
        changed = versions != self.tried
        self.tried = versions
        return changed

    def rejection_reason(self, expires_at: float, now: float) -> str | None:
        """Return why a loaded certificate is not used; None where it replaces the one in use. Times: unix seconds."""
        if expires_at > now or expires_at >= self.expires_at:
            return None
        return f"it ended {_days(now - expires_at)} ago, before the one in use"

    def use(self, expires_at: float) -> None:
        """Record that a certificate came into use. expires_at: unix seconds."""
        self.expires_at = expires_at
        self._warned_at = None

    def days_left(self, now: float) -> float:
        """Return the days until the certificate in use ends, negative after its end. now: unix seconds."""
        return (self.expires_at - now) / _DAY_S

    def warning(self, now: float) -> str | None:
        """Return a warning of the certificate's end where one is due, at most once in WARN_EVERY_S."""
        if self.days_left(now) >= WARN_DAYS or (self._warned_at is not None and now - self._warned_at < WARN_EVERY_S):
            return None
        self._warned_at = now
        if self.expires_at <= now:
            return f"it ended {_days(now - self.expires_at)} ago: clients refuse it; replace both files"
        return f"it ends in {_days(self.expires_at - now)}; replace both files before"


def _days(seconds: float) -> str:
    return f"{seconds / _DAY_S:.1f} days"
