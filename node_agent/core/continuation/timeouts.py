"""How long a node or a stream may be silent: a frozen node says nothing, a drained vLLM can hang with its socket open.

Whether an *engine* works is another question, which its own node answers (`core/engine/liveness`). What is silent here
is a peer that no longer says that it lives, or a stream that its working engine has left behind.
"""

from __future__ import annotations

MIN_INTER_TOKEN_S = 2.0
_TIMEOUT_IN_TOKENS = 8.0
FIRST_TOKEN_S = 30.0
_FIRST_TOKEN_S_PER_KIB = 0.5
MAX_FIRST_TOKEN_S = 600.0


def inter_token_timeout_s(time_per_token_s: float, least_s: float = MIN_INTER_TOKEN_S) -> float:
    """The inter-token timeout: 2 s, or eight times the engine's measured time per token where that is longer.

    A stream that is silent for so long is lost only where its engine has served others meanwhile.
    """
    return max(least_s, _TIMEOUT_IN_TOKENS * time_per_token_s)


def keepalive_interval_s(least_s: float) -> float:
    """How often a node shows on a silent request of a peer's that it lives, and that its engine is not stuck.

    least_s: of an inter-token timeout; the peer waits so long for a sign.
    """
    return least_s / 4


def accept_timeout_s(least_s: float) -> float:
    """How long a peer may take to accept a request. It does so at once, whatever its engine does: one that does not is
    frozen, or cut off. least_s: of an inter-token timeout, which says how slow a machine may be here."""
    return least_s / 2


def first_token_timeout_s(request_bytes: int) -> float:
    """The bound before the first token: queueing, and a prefill that grows with the prompt."""
    return min(MAX_FIRST_TOKEN_S, FIRST_TOKEN_S + _FIRST_TOKEN_S_PER_KIB * request_bytes / 1024)


class TokenRate:
    """The time per token of one engine, as this node sees it: an average that forgets."""

    _WEIGHT = 0.05

    def __init__(self) -> None:
        self.time_per_token_s = 0.0

    def observe(self, elapsed_s: float) -> None:
        """One more gap between two tokens of one stream, in seconds."""
        if self.time_per_token_s:
            self.time_per_token_s += self._WEIGHT * (elapsed_s - self.time_per_token_s)
        else:
            self.time_per_token_s = elapsed_s
