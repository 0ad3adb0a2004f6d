"""Compute waits between attempts: exponential, bounded, with jitter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """A backoff policy. first_s, max_s: bounds of a wait in seconds; max_attempts: None for no bound."""

    first_s: float
    max_s: float
    max_attempts: int | None = None

    def wait_s(self, attempt: int, chance: float) -> float | None:
        """Return the wait after attempt `attempt`, counted from 1, in seconds; None where no other is allowed.

        chance: uniform in [0, 1), from the caller. Half of the wait is fixed, so that a retry is never immediate.
        """
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        ceiling = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 32))
        return ceiling * (0.5 + 0.5 * chance)
