"""The rates of a node: assumed, measured for a while, and assumed again; and the choice that follows from them."""

from __future__ import annotations

from node_agent.core.kv.transfer_policy import MIN_SAMPLE_BYTES, ContextSource, Rate
from node_agent.core.kv.transfer_rates import ASSUMED_RATES, RATE_LIFETIME_S, TransferRates

PEER, S3 = ContextSource.PEER, ContextSource.S3
ASSUMED = Rate(0.0, 100e6)
LARGE = 10 * MIN_SAMPLE_BYTES


def test_a_source_that_was_not_measured_has_its_assumed_rate() -> None:
    rates = TransferRates()
    assert {source: rates.rate(source, 0.0) for source in ASSUMED_RATES} == dict(ASSUMED_RATES)


def test_a_measured_rate_counts_for_its_lifetime_and_for_its_source_only() -> None:
    rates = TransferRates({PEER: ASSUMED, S3: ASSUMED})
    rates.record(S3, LARGE, 10.0, now=100.0)
    measured = rates.rate(S3, 100.0)
    assert measured.bytes_per_s < ASSUMED.bytes_per_s
    assert rates.rate(S3, 100.0 + RATE_LIFETIME_S) == measured
    assert rates.rate(S3, 100.1 + RATE_LIFETIME_S) == ASSUMED
    assert rates.rate(PEER, 100.0) == ASSUMED


def test_measurements_add_up_until_the_rate_expires() -> None:
    rates = TransferRates({S3: ASSUMED})
    rates.record(S3, LARGE, 10.0, now=0.0)
    once = rates.rate(S3, 0.0)
    rates.record(S3, LARGE, 10.0, now=1.0)
    assert rates.rate(S3, 1.0).bytes_per_s < once.bytes_per_s
    rates.record(S3, LARGE, 10.0, now=2.0 + RATE_LIFETIME_S)
    assert rates.rate(S3, 2.0 + RATE_LIFETIME_S) == once


def test_a_transfer_too_short_for_a_sample_does_not_prolong_a_measured_rate() -> None:
    rates = TransferRates({S3: ASSUMED})
    rates.record(S3, LARGE, 10.0, now=0.0)
    rates.record(S3, 1_000, 0.01, now=RATE_LIFETIME_S)
    assert rates.rate(S3, 1.0 + RATE_LIFETIME_S) == ASSUMED


def test_a_source_is_chosen_where_it_is_faster_than_this_engine() -> None:
    rates = TransferRates({S3: ASSUMED})
    assert rates.choose(S3, 1_000, LARGE, 0.0).source is ContextSource.RECOMPUTE, "nothing can be compared"
    rates.prefill_tokens_per_s = 100.0
    assert rates.choose(S3, 1_000, LARGE, 0.0).source is S3
    rates.prefill_tokens_per_s = 1e6
    assert rates.choose(S3, 1_000, LARGE, 0.0).source is ContextSource.RECOMPUTE
