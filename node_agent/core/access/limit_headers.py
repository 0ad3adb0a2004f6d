"""Put a key's limits into words: OpenAI's headers of a limited key's answers, and the message of a refusal."""

from __future__ import annotations

from node_agent.core.access.key_usage import KeyUsage, Limit, Refused

_PER = {Limit.REQUESTS: "requests a minute", Limit.TOKENS: "tokens a minute", Limit.STREAMS: "requests at once"}


_REQUESTS, _TOKENS = Limit.REQUESTS, Limit.TOKENS
_MINUTE = b"1m0s"


def limit_headers(usage: KeyUsage, reset: bytes = _MINUTE) -> list[tuple[bytes, bytes]]:
    """Return x-ratelimit-limit-, -remaining- and -reset- of the requests and tokens that the key is limited in.

    reset: the duration until nothing of it is used; a minute where a request has just been counted.
    """
    limits, headers = usage.limits, list[tuple[bytes, bytes]]()
    if limits.requests_per_minute is not None:
        headers = [
            (b"x-ratelimit-limit-requests", b"%d" % limits.requests_per_minute),
            (b"x-ratelimit-remaining-requests", b"%d" % usage.remaining(_REQUESTS)),
            (b"x-ratelimit-reset-requests", reset),
        ]
    if limits.tokens_per_minute is not None:
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % limits.tokens_per_minute),
            (b"x-ratelimit-remaining-tokens", b"%d" % usage.remaining(_TOKENS)),
            (b"x-ratelimit-reset-tokens", reset),
        )
    return headers


def duration(seconds: float) -> bytes:
    """Return a duration as OpenAI writes it: 0s, 250ms, 1.5s, 1m0s."""
    milliseconds = max(0, round(seconds * 1000))
    if 0 < milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, milliseconds = divmod(milliseconds, 60_000)
    text = f"{milliseconds / 1000:g}s"
    return (f"{minutes}m{text}" if minutes else text).encode()


def refusal_message(refused: Refused) -> str:
    """Return what a client reads of a refusal."""
    per = _PER[refused.limit]
    figures = f"limit {refused.allowed}, used {refused.used}, requested {refused.cost}"
    if refused.retry_after_s is None:
        return f"Request too large for this key's {per}: {figures}. Send a shorter one, or raise the limit."
    return f"This key's {per} are used up: {figures}. Try again in {refused.retry_after_s:.0f} s."


def zero_message(limit: Limit) -> str:
    """Return what a client reads whose key has a limit of 0."""
    return (
        f"This key may not use any {_PER[limit]}: its limit is 0. Another try ends the same; the operator sets limits."
    )
