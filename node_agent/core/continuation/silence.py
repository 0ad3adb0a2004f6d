"""Decide how long the engines of one stream may be silent, and when a silence loses the current one.

An engine may be silent until its first token for a time that depends on the prompt, from then on for a time that
depends on its pace so far (`core/continuation/timeouts`). Its node sends keep-alives meanwhile, which say whether the
engine served others since this stream's last token: only then is the stream lost there.

All instants are of one monotonic clock, in seconds.
"""

from __future__ import annotations

from node_agent.core.continuation.timeouts import (
    TokenRate,
    first_token_timeout_s,
    inter_token_timeout_s,
    keepalive_interval_s,
)

_MAX_EVENTS_BETWEEN_LOOKS = 64


class SilenceDetector:
    """The silences of one stream's engines. min_timeout_s: the least inter-token timeout, in seconds.

    Two attributes are read and set once per token, so they are no methods.
    """

    def __init__(self, min_timeout_s: float) -> None:
        self.silent_since = 0.0
        """The instant since which only keep-alives come; the caller sets 0.0 at every token."""

        self.next_look = 1
        """The event from which on to call `observe`: often at first, then seldom."""

        self.timeout_s = 0.0
        """How long a silence may last where the engine serves others meanwhile."""

        self._min_timeout_s = min_timeout_s
        self._rate = TokenRate()
        self._seq = 0  # of the last look at this engine, 0 before the first
        self._seen_at = 0.0

    def begin(self, seq: int, request_bytes: int) -> float:
        """Begin with another engine.

        Args:
            seq: the number of the stream's last event.
            request_bytes: the size of the engine's request.

        Returns:
            Its timeout until the first token, in seconds.
        """
        self.next_look, self._seq = seq + 1, 0
        self.silent_since, self.timeout_s = 0.0, first_token_timeout_s(request_bytes)
        return self.timeout_s

    def observe(self, seq: int, now: float) -> float | None:
        """Adapt the pace to the events since the last call.

        Args:
            seq: the number of the newest event.
            now: when it arrived.

        Returns:
            The inter-token timeout in seconds, None before there is a pace.
        """
        if self._seq:
            self._rate.observe((now - self._seen_at) / max(1, seq - self._seq))
        self._seq, self._seen_at = seq, now
        self.next_look = seq + min(max(seq, 1), _MAX_EVENTS_BETWEEN_LOOKS)
        time_per_token_s = self._rate.time_per_token_s
        return inter_token_timeout_s(time_per_token_s, self._min_timeout_s) if time_per_token_s else None

    def on_keepalive(self, now: float, *, is_overtaken: bool) -> bool:
        """Record a keep-alive of the engine's node.

        is_overtaken: whether the engine served others since this stream's last token.

        Returns:
            Whether the stream is lost there: it was overtaken for too long.
        """
        # The first one comes once the engine was silent for an interval.
        self.silent_since = self.silent_since or now - keepalive_interval_s(self._min_timeout_s)
        return is_overtaken and now - self.silent_since >= self.timeout_s
