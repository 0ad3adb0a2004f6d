"""How an engine comes to the context of a stream that it goes on with: computed again, from a peer, or from S3.

A pure function of how long the context is, how fast this engine computes one, and how fast the others were measured to
give it. What costs least time is chosen, and a tie goes to computing, which depends on nobody.

    computing      tokens / prefill rate
    from a place   its latency + bytes / its bandwidth + the tokens that it does not have / prefill rate

Arithmetic to have in mind: Llama-3-8B has 128 KiB of KV a token, so 8k tokens are 1 GiB: 0.9 s between peers at
10 Gb/s, 12 s on one connection to S3, 1.5 s on eight; against 2-4 s of prefill on an A10G-class GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MIN_GAIN_S = 0.02
"""Less than that is not worth another party."""

MAX_TRANSFER_S = 10.0
"""No transfer is begun that would take longer: the client waits, and an estimate may be wrong."""

MIN_TIMEOUT_S = 1.0
"""A transfer may take that long, however fast this engine computes: a busy processor is late by some tenths of it."""

MIN_SAMPLE_BYTES = 8 * 1024 * 1024
MIN_SAMPLE_S = 0.5
"""A transfer that moved less, in less time, says something of latency and nothing of bandwidth."""


class ContextSource(StrEnum):
    RECOMPUTE = "recompute"
    PEER = "peer"
    S3 = "s3"


@dataclass(frozen=True)
class Rate:
    """Of one place. latency_s: until the first byte; bytes_per_s: after that, over all connections together."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class SourceOffer:
    """What a place has of the missing context, from its beginning on: tokens, and their bytes."""

    source: ContextSource
    tokens: int
    size: int
    rate: Rate


@dataclass(frozen=True)
class SourceChoice:
    """expected_s: until the context is there; reason: for the log and the metric's reader.

    give_up_s: a transfer that takes longer is given up. It has by then cost what computing costs, so that a client
    waits no more than twice as long as without any transfer, or a second more, however wrong the estimate was.
    """

    source: ContextSource
    expected_s: float
    reason: str
    timeout_s: float = 0.0


def choose_source(
    missing_tokens: int, prefill_tokens_per_s: float | None, offers: tuple[SourceOffer, ...]
) -> SourceChoice:
    """missing_tokens: of the context that this node does not have; prefill_tokens_per_s: None while not measured.

    Without a measured prefill rate nothing can be compared: then the context is computed.
    """
    if missing_tokens <= 0:
        return SourceChoice(ContextSource.RECOMPUTE, 0.0, "nothing is missing")
    if not prefill_tokens_per_s:
        return SourceChoice(ContextSource.RECOMPUTE, 0.0, "this engine's prefill was not measured yet")
    computing_s = missing_tokens / prefill_tokens_per_s
    best = SourceChoice(
        ContextSource.RECOMPUTE, computing_s, f"{missing_tokens} tokens are computed in {computing_s:.2f} s"
    )
    rejected = []
    for offer in offers:
        expected_s = _expected_s(missing_tokens, prefill_tokens_per_s, offer)
        told = f"{offer.source}: {offer.tokens} tokens, {expected_s:.2f} s"
        if offer.tokens <= 0 or expected_s > MAX_TRANSFER_S or expected_s > best.expected_s - MIN_GAIN_S:
            rejected.append(told)
        else:
            reason = f"{told}, against {computing_s:.2f} s of computing"
            best = SourceChoice(offer.source, expected_s, reason, min(MAX_TRANSFER_S, max(MIN_TIMEOUT_S, computing_s)))
    if best.source is ContextSource.RECOMPUTE and rejected:
        return SourceChoice(best.source, best.expected_s, f"{best.reason} ({'; '.join(rejected)})")
    return best


def _expected_s(missing_tokens: int, prefill_tokens_per_s: float, offer: SourceOffer) -> float:
    left = max(0, missing_tokens - offer.tokens)
    return offer.rate.latency_s + offer.size / offer.rate.bytes_per_s + left / prefill_tokens_per_s


def updated_rate(rate: Rate, size: int, took_s: float, weight: float = 0.3) -> Rate:
    """The rate after another transfer of so many bytes; one that was too short to say something changes nothing."""
    moving_s = took_s - rate.latency_s
    if moving_s <= 0 or (size < MIN_SAMPLE_BYTES and took_s < MIN_SAMPLE_S):
        return rate
    return Rate(rate.latency_s, (1 - weight) * rate.bytes_per_s + weight * size / moving_s)
