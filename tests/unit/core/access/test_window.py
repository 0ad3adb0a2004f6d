"""Sliding windows: what they count, for how long, and that a limit kept here is kept in every minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.access.window import BUCKET_S, MINUTE_S, Window


def sums(window: Window, at: float) -> tuple[int, int]:
    window.expire(at)
    return window.first, window.second


def test_an_amount_counts_for_its_minute_and_at_most_a_bucket_more() -> None:
    window = Window()
    window.add(100.1, 5, 50)
    window.add(100.1, 2)
    assert sums(window, 100.1) == (7, 50)
    assert sums(window, 160.1) == (7, 50)
    assert sums(window, 160.1 + 2 * BUCKET_S) == (0, 0)
    window.add(500.0, 1)
    assert sums(window, 500.0) == (1, 0)


def test_recent_amounts_are_summed_backwards() -> None:
    window = Window()
    for second in range(10):
        window.add(float(second), 1, 2)
    assert window.since(9.0, 0.0) == (1, 2)
    assert window.since(9.0, 2.0) == (3, 6)
    assert window.since(9.0, 100.0) == (10, 20)
    assert window.since(50.0, 1.0) == (0, 0)


def test_what_is_taken_back_no_longer_counts() -> None:
    window = Window()
    window.add(1.0, 3, 1)
    window.add(2.0, 4, 1)
    window.take_back(1.0, 3, 1)
    window.take_back(1.5, 9)  # nothing is of that instant
    assert sums(window, 2.0) == (4, 1)
    window.take_back(2.0, 4, 1)
    assert sums(window, 2.0) == (0, 0)
    assert sums(window, 100.0) == (0, 0)
    window.take_back(2.0, 4)  # it has left already
    assert sums(window, 100.0) == (0, 0)


def test_a_correction_leaves_with_its_own_bucket() -> None:
    window = Window()
    window.add(0.0, 10)
    window.add(50.0, -4)
    assert sums(window, 50.0) == (6, 0)
    assert sums(window, 70.0) == (-4, 0)
    assert sums(window, 200.0) == (0, 0)


def test_the_time_until_an_amount_is_free() -> None:
    window = Window()
    assert window.empties_after_s(5.0) == 0.0
    window.add(0.0, 2, 7)
    window.add(30.0, 2)
    assert window.frees_after_s(30.0, 1, 0) == window.frees_after_s(30.0, 2, 0) == 30.0 + BUCKET_S
    assert window.frees_after_s(30.0, 7, 1) == 30.0 + BUCKET_S
    assert window.frees_after_s(30.0, 3, 0) == window.empties_after_s(30.0) == 60.0 + BUCKET_S
    assert window.frees_after_s(30.0, 5, 0) is None


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 4)), max_size=150), st.integers(1, 20))
def test_what_a_window_keeps_below_a_limit_is_below_it_in_every_minute(
    steps: list[tuple[float, int]], limit: int
) -> None:
    window, at, taken = Window(), 0.0, list[tuple[float, int]]()
    for gap_s, amount in steps:
        at += gap_s
        if sums(window, at)[0] + amount <= limit:
            window.add(at, amount)
            taken.append((at, amount))
    for end, _ in taken:
        assert sum(amount for at, amount in taken if end - MINUTE_S < at <= end) <= limit
