"""Choose the source of a continued stream's context: compute it again, or fetch it from a peer or from S3.

A pure function of the context's length, this engine's prefill rate, and the measured rates of the sources. The fastest
is chosen; a tie goes to computing, which depends on no other party.

    computing      tokens / prefill rate
    from a source  its latency + bytes / its bandwidth + the tokens that it does not have / prefill rate

Arithmetic to have in mind: Llama-3-8B has 128 KiB of KV a token, so 8k tokens are 1 GiB: 0.9 s between peers at
10 Gb/s, 12 s on one connection to S3, 1.5 s on eight; against 2-4 s of prefill on an A10G-class GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MIN_GAIN_S = 0.02
"""A smaller gain is not worth a dependency on another party."""

MAX_TRANSFER_S = 10.0
"""No transfer is started that would take longer: the client waits, and an estimate may be wrong."""

MIN_TIMEOUT_S = 1.0
"""The least timeout, however fast this engine computes: a busy processor is late by some tenths of it."""

MIN_SAMPLE_BYTES = 8 * 1024 * 1024
MIN_SAMPLE_S = 0.5
"""A transfer that moved less, in less time, is a sample of latency and not of bandwidth."""


class ContextSource(StrEnum):
    """Where a continued stream's context comes from. The values are labels of the metrics."""

    RECOMPUTE = "recompute"
    PEER = "peer"
    S3 = "s3"


@dataclass(frozen=True)
class Rate:
    """One source's rate. latency_s: until the first byte; bytes_per_s: after that, over all connections together."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class SourceOffer:
    """What a source has of the missing context, from its beginning on: tokens, and their bytes."""

    source: ContextSource
    tokens: int
    size: int
    rate: Rate


@dataclass(frozen=True)
class SourceChoice:
    """The chosen source of a context."""

    source: ContextSource
    expected_s: float
    """Until the context is there."""

    reason: str
    """For the log and the metric's reader."""

    timeout_s: float = 0.0
    """A transfer that takes longer is cancelled. It has by then cost what computing costs, so that a client waits no
    more than twice as long as without any transfer, or a second more, however wrong the estimate was."""


def choose_source(
    missing_tokens: int, prefill_tokens_per_s: float | None, offers: tuple[SourceOffer, ...]
) -> SourceChoice:
    """Choose the source from which the context is complete soonest.

    Args:
        missing_tokens: of the context that this node does not have.
        prefill_tokens_per_s: this engine's rate, None while not measured: then nothing can be compared.
        offers: of all sources that have some of the context.

    Returns:
        The choice: RECOMPUTE where nothing is missing, nothing can be compared, or no offer is MIN_GAIN_S faster.
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
        description = f"{offer.source}: {offer.tokens} tokens, {expected_s:.2f} s"
        if offer.tokens <= 0 or expected_s > MAX_TRANSFER_S or expected_s > best.expected_s - MIN_GAIN_S:
            rejected.append(description)
        else:
            reason = f"{description}, against {computing_s:.2f} s of computing"
            best = SourceChoice(offer.source, expected_s, reason, min(MAX_TRANSFER_S, max(MIN_TIMEOUT_S, computing_s)))
    if best.source is ContextSource.RECOMPUTE and rejected:
        return SourceChoice(best.source, best.expected_s, f"{best.reason} ({'; '.join(rejected)})")
    return best


def _expected_s(missing_tokens: int, prefill_tokens_per_s: float, offer: SourceOffer) -> float:
    remaining_tokens = max(0, missing_tokens - offer.tokens)
    return offer.rate.latency_s + offer.size / offer.rate.bytes_per_s + remaining_tokens / prefill_tokens_per_s


def updated_rate(rate: Rate, size: int, took_s: float, weight: float = 0.3) -> Rate:
    """Return the rate after another transfer of `size` bytes; one that is too short for a sample changes nothing."""
    moving_s = took_s - rate.latency_s
    if moving_s <= 0 or (size < MIN_SAMPLE_BYTES and took_s < MIN_SAMPLE_S):
        return rate
    return Rate(rate.latency_s, (1 - weight) * rate.bytes_per_s + weight * size / moving_s)
