"""Compute the timeouts of streams and peers: a frozen node sends nothing, a drained vLLM can hang with its socket open.

These timeouts detect a peer that sends no keepalive any more, or a stream that its working engine no longer serves.
The engine's own node checks whether the *engine* works (`core/engine/liveness`).
"""

from __future__ import annotations

MIN_INTER_TOKEN_S = 2.0
_TIMEOUT_IN_TOKENS = 8.0
FIRST_TOKEN_S = 30.0
_FIRST_TOKEN_S_PER_KIB = 0.5
MAX_FIRST_TOKEN_S = 600.0


def inter_token_timeout_s(time_per_token_s: float, min_timeout_s: float = MIN_INTER_TOKEN_S) -> float:
    """Return the inter-token timeout: 2 s, or eight times the engine's measured time per token where that is longer.

    A stream without a token for so long is lost only where its engine has served others meanwhile.
    """
    return max(min_timeout_s, _TIMEOUT_IN_TOKENS * time_per_token_s)


def keepalive_interval_s(min_timeout_s: float) -> float:
    """Return the interval of the keepalives on a peer's idle request: this node is alive, its engine is not stuck.

    min_timeout_s: the least inter-token timeout; the peer waits so long for a keepalive.
    """
    return min_timeout_s / 4


def accept_timeout_s(min_timeout_s: float) -> float:
    """Return how long a peer may take to accept a request.

    A peer accepts at once, whatever its engine does: one that does not is frozen or partitioned. min_timeout_s: the
    least inter-token timeout, which is configured for slow machines.
    """
    return min_timeout_s / 2


def first_token_timeout_s(request_bytes: int) -> float:
    """Return the timeout before the first token: queueing, and a prefill that grows with the prompt."""
    return min(MAX_FIRST_TOKEN_S, FIRST_TOKEN_S + _FIRST_TOKEN_S_PER_KIB * request_bytes / 1024)


class TokenRate:
    """The time per token of one engine, as this node measures it: an exponential moving average."""

    _WEIGHT = 0.05

    def __init__(self) -> None:
        self.time_per_token_s = 0.0

    def observe(self, elapsed_s: float) -> None:
        """Add one interval between two tokens of a stream, in seconds."""
        if self.time_per_token_s:
            self.time_per_token_s += self._WEIGHT * (elapsed_s - self.time_per_token_s)
        else:
            self.time_per_token_s = elapsed_s
