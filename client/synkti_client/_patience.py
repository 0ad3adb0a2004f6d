"""How long this client tries: bounds on attempts and time, counted anew whenever something of the answer came."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """attempts, seconds: without any progress, until the last error is raised.

    unreachable_s: the same for a new request where no node answers at all; a stream under way has `seconds`.
    losses: how many nodes may be lost in the middle of answering a new request; each may have generated in vain.
    silence_s: how long a node may send nothing at all in a stream; a living one sends a comment every second.
    connect_s: how long a connection may take; head_s: how long the head of a new stream, which a node sends within 5 s;
    resume_s: that of one that is resumed, which waits for no engine: a node that is frozen should not hold it up.
    first_wait_s, longest_wait_s: between two rounds over all nodes, doubled from one to the next.
    """

    attempts: int = 200
    seconds: float = 60.0
    unreachable_s: float = 15.0
    losses: int = 4
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
        return float(min(self.longest_wait_s, self.first_wait_s * 2 ** min(rounds - 1, 30)))
