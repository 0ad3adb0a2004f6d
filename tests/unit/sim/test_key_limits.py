"""Limits of one key on virtual time: how closely a fleet holds them, with lost reports and lost nodes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.core.access.caller import KeyLimits
from sim.key_limits import (
    FULL_FROM_S,
    LASTS_S,
    WEIGHTS,
    Outcome,
    Play,
    all_at_once,
    bursts,
    overloaded,
    run_play,
    steady,
)


def check(outcome: Outcome, limit: int, slack: int = 1) -> None:
    """Assert the promise: never more than the limit and a tenth, or `slack` requests where that is more."""
    assert outcome.most_in_a_minute() <= limit + max(slack, limit // 10)


@pytest.mark.parametrize("nodes", [3, 10])
@pytest.mark.parametrize("where", list(WEIGHTS))
@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_a_fleet_holds_a_limit_within_a_tenth(nodes: int, where: str, loss: float) -> None:
    outcome = run_play(overloaded(nodes, 120, where, seed=1, loss=loss))
    check(outcome, 120)
    assert outcome.in_minute(FULL_FROM_S) >= 0.9 * 120


@pytest.mark.long  # forty seconds of computing; what makes a hundred nodes different is in the bursts below
@pytest.mark.parametrize("where", list(WEIGHTS))
def test_a_hundred_nodes_hold_a_limit_within_a_tenth(where: str) -> None:
    outcome = run_play(overloaded(100, 300, where, seed=1))
    check(outcome, 300)
    kept = 0.85 if where == "all alike" else 0.9  # three requests for each node: rounding costs more
    assert outcome.in_minute(FULL_FROM_S) >= kept * 300


@pytest.mark.parametrize(("nodes", "limit"), [(3, 60), (10, 60), (100, 300)])
def test_requests_that_reach_all_nodes_at_once_do_not_exceed_the_limit(nodes: int, limit: int) -> None:
    check(run_play(all_at_once(nodes, limit, seed=1)), limit)


def test_a_lost_node_leaves_the_limit_as_it_was() -> None:
    outcome = run_play(overloaded(3, 120, "all alike", seed=1, dies=(80.0, 0)))
    check(outcome, 120)
    assert outcome.in_minute(FULL_FROM_S) >= 0.9 * 120


def test_tokens_are_held_like_requests() -> None:
    limits = KeyLimits(tokens_per_minute=60_000)
    arrivals = list(steady(10.0, [1.0, 1.0, 1.0], LASTS_S, 1, tokens=500))
    outcome = run_play(Play(3, limits, arrivals, LASTS_S))
    assert outcome.most_in_a_minute(by_tokens=True) <= 66_000
    assert outcome.in_minute(FULL_FROM_S, by_tokens=True) >= 54_000


def test_streams_at_once_are_held_like_requests() -> None:
    arrivals, answer_s = list(steady(8.0, [1.0, 1.0, 1.0], 80.0, 1)), 8.0
    outcome = run_play(Play(3, KeyLimits(streams=10), arrivals, 80.0, answer_s=answer_s))
    starts = [at for at, _ in outcome.admitted]
    at_once = [sum(start <= at < start + answer_s for start in starts) for at in range(20, 80)]
    assert max(at_once) <= 11
    assert sum(at_once) / len(at_once) >= 8


@settings(max_examples=12)
@given(
    st.sampled_from([2, 3, 5, 10]),
    st.integers(5, 300),
    st.lists(st.floats(0.01, 1.0), min_size=10, max_size=10),
    st.sampled_from([0.0, 0.1, 0.2]),
    st.integers(0, 10**6),
)
def test_whatever_clients_do_a_limit_is_held(
    nodes: int, limit: int, weights: list[float], loss: float, seed: int
) -> None:
    arrivals = [
        *steady(limit / 30.0, weights[:nodes], 100.0, seed),
        *bursts(max(1, limit // nodes), range(nodes), (weights[0] * 90.0,)),
    ]
    outcome = run_play(Play(nodes, KeyLimits(requests_per_minute=limit), arrivals, 100.0, loss=loss, seed=seed))
    # In a small fleet no third node passes on a report that is lost; a burst may then take the same room again.
    check(outcome, limit, slack=max(2, limit // 5) if loss else 2)


def test_reports_lost_in_a_fleet_of_two_cost_a_fifth_of_the_limit_at_most() -> None:
    """The one play of some thousands in which more than a tenth was admitted."""
    arrivals = [*steady(56 / 30.0, [0.25, 0.015625], 100.0, 8141), *bursts(28, range(2), (22.5,))]
    outcome = run_play(Play(2, KeyLimits(requests_per_minute=56), arrivals, 100.0, loss=0.1, seed=8141))
    assert 61 < outcome.most_in_a_minute() <= 56 + 11
