"""Test the choice of a context's source: a table of cases, and properties of all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.kv.transfer_policy import (
    MAX_TRANSFER_S,
    MIN_GAIN_S,
    MIN_SAMPLE_BYTES,
    MIN_TIMEOUT_S,
    ContextSource,
    Rate,
    SourceChoice,
    SourceOffer,
    choose_source,
    updated_rate,
)

MIB, GIB = 1024**2, 1024**3
TEN_GIGABIT, EIGHT_CONNECTIONS = Rate(0.002, 1.2e9), Rate(0.06, 700e6)
TOKEN = 128 * 1024  # Llama-3-8B's bytes of KV


def peer(tokens: int, rate: Rate = TEN_GIGABIT) -> SourceOffer:
    return SourceOffer(ContextSource.PEER, tokens, tokens * TOKEN, rate)


def s3(tokens: int, rate: Rate = EIGHT_CONNECTIONS) -> SourceOffer:
    return SourceOffer(ContextSource.S3, tokens, tokens * TOKEN, rate)


@pytest.mark.parametrize(
    ("tokens", "prefill", "offers", "way", "reason"),
    [
        (8192, 3000.0, (peer(8192), s3(8192)), ContextSource.PEER, "against 2.73 s of computing"),
        (8192, 3000.0, (s3(8192),), ContextSource.S3, "s3: 8192 tokens, 1.59 s"),
        (8192, 3000.0, (s3(8192, Rate(0.06, 85e6)),), ContextSource.RECOMPUTE, "s3: 8192 tokens"),
        (8192, 3000.0, (), ContextSource.RECOMPUTE, "8192 tokens are computed in 2.73 s"),
        (8192, 20000.0, (peer(8192), s3(8192)), ContextSource.RECOMPUTE, "peer: 8192 tokens, 0.90 s"),
        (64, 3000.0, (peer(64),), ContextSource.RECOMPUTE, "64 tokens"),
        (8192, 3000.0, (peer(0),), ContextSource.RECOMPUTE, "peer: 0 tokens"),
        (8192, 3000.0, (peer(1024), s3(8192)), ContextSource.S3, "s3"),
        (8192, 3000.0, (peer(8000), s3(8192)), ContextSource.PEER, "peer"),
        (8192, None, (peer(8192),), ContextSource.RECOMPUTE, "not measured"),
        (8192, 0.0, (peer(8192),), ContextSource.RECOMPUTE, "not measured"),
        (0, 3000.0, (peer(0),), ContextSource.RECOMPUTE, "nothing is missing"),
        (131_072, 300.0, (peer(131_072, Rate(0.0, 1e9)),), ContextSource.RECOMPUTE, "computed in 436.91 s"),
    ],
)
def test_the_way_and_its_reason(
    tokens: int, prefill: float | None, offers: tuple[SourceOffer, ...], way: ContextSource, reason: str
) -> None:
    choice = choose_source(tokens, prefill, offers)
    assert choice.source is way
    assert reason in choice.reason


_RATES = st.builds(Rate, st.floats(0, 2), st.floats(1e5, 1e10))
_OFFERS = st.lists(
    st.builds(
        SourceOffer,
        st.sampled_from([ContextSource.PEER, ContextSource.S3]),
        st.integers(0, 5000),
        st.integers(0, 10**10),
        _RATES,
    ),
    max_size=3,
)


@given(st.integers(0, 10_000), st.floats(1, 1e6), _OFFERS)
def test_never_slower_than_computing_and_never_for_nothing(
    tokens: int, prefill: float, offers: list[SourceOffer]
) -> None:
    choice = choose_source(tokens, prefill, tuple(offers))
    computing_s = tokens / prefill
    assert choice.expected_s <= computing_s
    assert choice.reason
    if choice.source is not ContextSource.RECOMPUTE:
        assert choice.expected_s <= min(MAX_TRANSFER_S, computing_s - MIN_GAIN_S)
        assert any(offer.source is choice.source and offer.tokens > 0 for offer in offers)


@given(st.integers(1, 10_000), st.floats(1, 1e6), _OFFERS)
def test_the_order_of_the_offers_decides_nothing_but_ties(
    tokens: int, prefill: float, offers: list[SourceOffer]
) -> None:
    one, other = choose_source(tokens, prefill, tuple(offers)), choose_source(tokens, prefill, tuple(reversed(offers)))
    assert abs(one.expected_s - other.expected_s) <= MIN_GAIN_S
    assert isinstance(one, SourceChoice)


def test_a_rate_follows_the_measurements() -> None:
    rate = Rate(0.01, 100e6)
    for _ in range(30):
        rate = updated_rate(rate, 10_000_000, 0.01 + 10_000_000 / 500e6)
    assert rate.bytes_per_s == pytest.approx(500e6, rel=0.01)
    assert rate.latency_s == 0.01


def test_a_transfer_without_bytes_lowers_the_rate_of_its_source() -> None:
    rate = Rate(0.01, 100e6)
    for _ in range(10):
        rate = updated_rate(rate, 0, 2.0)
    assert rate.bytes_per_s < 5e6


@given(st.integers(1, 10_000), st.floats(1, 1e6), _OFFERS)
def test_a_transfer_is_given_up_when_it_has_cost_as_much_as_computing(
    tokens: int, prefill: float, offers: list[SourceOffer]
) -> None:
    choice = choose_source(tokens, prefill, tuple(offers))
    if choice.source is ContextSource.RECOMPUTE:
        assert choice.timeout_s == 0
    else:
        assert choice.expected_s <= choice.timeout_s <= min(MAX_TRANSFER_S, max(MIN_TIMEOUT_S, tokens / prefill))


@pytest.mark.parametrize(
    ("size", "took_s"), [(0, 0.4), (10, 0.01), (10, 0.001), (MIN_SAMPLE_BYTES - 1, 0.4), (10**9, 0.01)]
)
def test_a_transfer_too_short_to_measure_changes_no_rate(size: int, took_s: float) -> None:
    assert updated_rate(Rate(0.01, 100e6), size, took_s) == Rate(0.01, 100e6)
