"""Shares of a remainder: together never more than the whole, and never nothing while there is something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.access.usage_share import (
    SETTLED_PART,
    WHOLE,
    may_take,
    new_share,
    report_interval_s,
    settle_s,
    settled_share,
)


@given(st.integers(1, 120), st.integers(0, 2_000))
def test_new_nodes_take_exactly_the_whole_where_no_demand_is_known(nodes: int, free: int) -> None:
    shares = [new_share(rank, nodes, others_demand=False) for rank in range(nodes)]
    assert sum(share.units(free) for share in shares) == free


@given(st.integers(1, 120), st.integers(0, 2_000))
def test_new_nodes_leave_the_larger_part_to_those_with_a_known_demand(nodes: int, free: int) -> None:
    shares = [new_share(rank, nodes, others_demand=True) for rank in range(nodes)]
    assert sum(share.units(free) for share in shares) <= free * (1 - SETTLED_PART)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=100), st.integers(1, 5_000), st.integers(0, 10**6))
def test_settled_nodes_take_about_their_part_together(demands: list[int], free: int, turn: int) -> None:
    total, count = sum(demands), len(demands)
    taken = sum(settled_share(own, total, (place + 0.5) / count, turn).units(free) for place, own in enumerate(demands))
    # What is rounded up and down cancels out but for chance, which is of the order of the number of nodes' root.
    assert taken <= max(1, free * SETTLED_PART) + 1 + 2 * count**0.5


@given(st.integers(1, 50), st.integers(0, 50), st.integers(-5, 5_000), st.integers(1, 3_000), st.floats(0, 0.99))
def test_the_quick_look_never_promises_more_than_the_share_has(
    own: int, others: int, free: int, units: int, place: float
) -> None:
    for share in (settled_share(own, own + others, place, 7), WHOLE, new_share(0, own, others_demand=True)):
        assert not share.surely_has(free, units) or share.units(free) >= units


def test_the_last_unit_reaches_each_of_equal_nodes_in_turn() -> None:
    reached = {
        place for turn in range(40) for place in range(8) if settled_share(1, 8, (place + 0.5) / 8, turn).units(1)
    }
    assert reached == set(range(8))


def test_a_node_alone_may_take_all_and_one_with_the_only_demand_most() -> None:
    assert WHOLE.units(7) == 7
    assert settled_share(5, 5, 0.5, 3).units(100) == 75
    assert settled_share(5, 5, 0.5, 3).units(1) == 1


def test_a_node_may_take_no_more_than_there_is_or_than_its_share_of_a_settle_time() -> None:
    half = settled_share(1, 2, 0.0, 0)
    assert not may_take(0, 0, 1, WHOLE)
    assert not may_take(9, 0, 10, WHOLE)
    assert may_take(100, 0, 1, half)
    assert may_take(70, 36, 1, half)
    assert not may_take(70, 42, 1, half)  # 43 of 112 are more than a half of three quarters
    assert may_take(100, 0, 30, half)
    assert not may_take(100, 30, 30, half)


@pytest.mark.parametrize(("nodes", "longest_s"), [(1, 0.0), (3, 1.5), (10, 2.0), (100, 4.0)])
def test_the_settle_time_grows_slowly_with_the_fleet(nodes: int, longest_s: float) -> None:
    assert settle_s(nodes, nodes) <= longest_s
    assert report_interval_s(nodes) <= 2.0
