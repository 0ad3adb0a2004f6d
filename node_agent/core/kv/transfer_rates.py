"""The rates that a choice of a context's source depends on: measured for a while, assumed otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.core.kv.transfer_policy import (
    ContextSource,
    Rate,
    SourceChoice,
    SourceOffer,
    choose_source,
    updated_rate,
)

ASSUMED_RATES: Mapping[ContextSource, Rate] = {
    ContextSource.PEER: Rate(0.005, 300e6),
    ContextSource.S3: Rate(0.1, 200e6),
}
"""While nothing was measured: a quarter of a 10 Gb/s network, and a third of eight connections to S3."""

RATE_LIFETIME_S = 300.0
"""How long a measured rate counts, in seconds. Else a source that was slow once would never be used, or measured,
again.
"""


@dataclass(frozen=True)
class _MeasuredRate:
    rate: Rate
    at: float


class TransferRates:
    """The rates of one node. Times are in seconds, monotonic.

    assumed: of each source, while it was not measured.
    prefill_tokens_per_s: this engine's, None while it was not measured.
    """

    def __init__(self, assumed: Mapping[ContextSource, Rate] = ASSUMED_RATES) -> None:
        self.prefill_tokens_per_s: float | None = None
        self._assumed = assumed
        self._measured: dict[ContextSource, _MeasuredRate] = {}

    def rate(self, source: ContextSource, now: float) -> Rate:
        """Return a source's rate, as recently measured, or as assumed."""
        measured = self._measured.get(source)
        if measured is None or now - measured.at > RATE_LIFETIME_S:
            return self._assumed[source]
        return measured.rate

    def record(self, source: ContextSource, size: int, took_s: float, now: float) -> None:
        """Record a transfer of `size` bytes; one that is too short for a sample changes nothing."""
        before = self.rate(source, now)
        rate = updated_rate(before, size, took_s)
        if rate is not before:
            self._measured[source] = _MeasuredRate(rate, now)

    def choose(self, source: ContextSource, tokens: int, size: int, now: float) -> SourceChoice:
        """Choose between a source that has all of `tokens`, in `size` bytes, and computing them."""
        offer = SourceOffer(source, tokens, size, self.rate(source, now))
        return choose_source(tokens, self.prefill_tokens_per_s, (offer,))
