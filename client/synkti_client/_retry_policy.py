"""The bounds on attempts and time. They start again whenever a part of the response has been received."""

from __future__ import annotations

from dataclasses import dataclass

_MAX_DOUBLINGS = 3


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds of one request."""

    max_attempts: int = 200
    """Attempts without any progress, after which the last error is raised."""

    max_retry_s: float = 60.0
    """The time without any progress after which the last error is raised."""

    max_unreachable_s: float = 15.0
    """The same for a new request where no node answers at all, once several were tried. A stream that has begun has
    `max_retry_s`, and so has a new request where a node answered another one within that time before."""

    max_losses: int = 4
    """How many nodes may fail while they answer a new request; the work of each may be lost."""

    read_timeout_s: float = 3.0
    """How long a node may send nothing in a stream; a working one sends a comment every second."""

    connect_timeout_s: float = 1.0
    """Of the first round over all nodes, as `resume_timeout_s`; see `growth`."""

    header_timeout_s: float = 10.0
    """The timeout of a new stream's response header, which a node sends within 5 s."""

    resume_timeout_s: float = 3.5
    """The timeout of a resumed stream's response header, which does not depend on an engine: it is short, so that a
    frozen node does not delay the stream."""

    initial_backoff_s: float = 0.05
    """The wait between the first two rounds over all nodes; it doubles with each round."""

    max_backoff_s: float = 1.0

    def growth(self, attempt: int, nodes: int) -> float:
        """Return the factor of the connect and resume timeouts: it doubles with each round over all nodes, up to 8.

        A client that is overloaded itself would else time out at every node, again and again, and never recover.
        """
        return float(2 ** min(self._rounds(attempt, nodes), _MAX_DOUBLINGS))

    @staticmethod
    def _rounds(attempt: int, nodes: int) -> int:
        return max(0, attempt - 1) // max(1, nodes)

    def backoff_s(self, attempt: int, nodes: int) -> float:
        """Return the wait before an attempt (from 1): none in the first round over all nodes, then a doubling one."""
        rounds = self._rounds(attempt, nodes)
        if rounds == 0:
            return 0.0
        return float(min(self.max_backoff_s, self.initial_backoff_s * 2 ** min(rounds - 1, 30)))
