"""Test how many log lines of one kind are logged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.common.log_limit import LogLimit


def test_a_flood_is_cut_to_a_few_lines_and_the_next_line_counts_the_dropped_ones() -> None:
    limit = LogLimit(burst=3, per_s=1.0)
    assert [limit.suppressed_before("refused", 0.0) for _ in range(10)] == [0, 0, 0, *[None] * 7]
    assert limit.suppressed_before("refused", 0.5) is None
    assert limit.suppressed_before("refused", 1.0) == 8
    assert limit.suppressed_before("refused", 2.0) == 0


def test_kinds_are_limited_independently() -> None:
    limit = LogLimit(burst=1)
    assert limit.suppressed_before("one", 0.0) == 0
    assert limit.suppressed_before("one", 0.0) is None
    assert limit.suppressed_before("another", 0.0) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 5.0)), max_size=200))
def test_the_table_is_bounded_and_every_dropped_line_is_counted(lines: list[tuple[int, float]]) -> None:
    limit, now, passed = LogLimit(burst=2, per_s=0.5, max_kinds=60), 0.0, 0
    for kind, wait_s in lines:
        now += wait_s
        if (left_out := limit.suppressed_before(kind, now)) is not None:
            passed += 1 + left_out
    assert passed + sum(bucket.suppressed for bucket in limit._buckets.values()) == len(lines)
    few = LogLimit(max_kinds=5)
    for kind, _ in lines:
        few.suppressed_before(kind, 0.0)
    assert len(few._buckets) <= 5
