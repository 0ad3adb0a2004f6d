"""How long this client tries: bounds on attempts and time, counted anew whenever something of the answer came."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """attempts, seconds: without any progress, until the last error is raised.

    silence_s: how long a node may send nothing at all in a stream; a living one sends a comment every second.
    connect_s: how long a connection may take; head_s: how long the head of a new stream; resume_s: that of one that
    is resumed, which waits for no engine, and should not wait long for a node that is frozen.
    """

    attempts: int = 200
    seconds: float = 60.0
    silence_s: float = 3.0
    connect_s: float = 1.0
    head_s: float = 10.0
    resume_s: float = 3.5
    first_wait_s: float = 0.05
    longest_wait_s: float = 1.0

    def wait_s(self, attempt: int, nodes: int) -> float:
        """Before attempt number `attempt` (from 1): nothing while there are nodes not asked yet, then ever longer."""
        rounds = (attempt - 1) // max(1, nodes)
        if rounds == 0:
            return 0.0
        return float(min(self.longest_wait_s, self.first_wait_s * 2 ** (rounds - 1)))
