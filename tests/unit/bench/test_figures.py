"""The bench's pure part: from runs to rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import (
    DIRECT,
    ROUTER,
    WHOLE,
    AddedLatency,
    CpuCost,
    Memory,
    Run,
    added_latencies,
    added_rows,
    cost_ratios,
    cost_rows,
    cpu_costs,
    load_name,
    memory_rows,
    paired_runs,
    quantile,
    rotation,
)

MINE = "synkti none"


def run(door: str, round_: int, cpu_s: float = 1.0, *, streams: int = 64, wait_ms: float = 0.0) -> Run:
    first, gap = (wait_ms / 1000, 2 * wait_ms / 1000), (3 * wait_ms / 1000, 4 * wait_ms / 1000)
    return Run(door, streams, round_, 1_000, cpu_s, first, gap)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.5, 5.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 0.5, 1.0), (list(range(1, 101)), 0.99, 99)],
)
def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(
    values: list[float], share: float, expected: float
) -> None:
    assert quantile(values, share) == expected


def test_an_empty_list_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        quantile([], 0.5)


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_one_of_the_values_and_covers_its_share(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


def test_runs_are_paired_within_their_round_and_load() -> None:
    runs = [run(MINE, 0), run(ROUTER, 0), run(MINE, 1), run(ROUTER, 0, streams=256), run(ROUTER, 2)]
    assert paired_runs(runs, MINE, ROUTER, 64) == [(runs[0], runs[1])]


def test_ratios_are_made_round_by_round() -> None:
    # The machine was three times as slow in the second round, for both: the ratio does not see it.
    runs = [run(MINE, 0, 2.0), run(ROUTER, 0, 1.0), run(MINE, 1, 6.0), run(ROUTER, 1, 3.0)]
    runs += [run(MINE, 2, 3.0), run(ROUTER, 2, 1.0)]
    assert cost_ratios(runs, MINE, ROUTER, 64) == pytest.approx((2.0, 2.0, 3.0))


def test_without_a_pair_or_without_a_tick_of_cpu_there_is_no_ratio() -> None:
    assert cost_ratios([run(MINE, 0)], MINE, ROUTER, 64) == ()
    assert cost_ratios([run(MINE, 0), run(ROUTER, 0, 0.0)], MINE, ROUTER, 64) == ()


def test_costs_leave_out_the_engine_and_loads_too_small_for_the_kernels_ticks() -> None:
    runs = [run(door, 0, streams=streams) for door in (DIRECT, ROUTER, MINE) for streams in (1, 64, WHOLE)]
    result = cpu_costs(runs)
    assert [(cost.proxy, cost.streams) for cost in result] == [(ROUTER, 64), (ROUTER, WHOLE), (MINE, 64), (MINE, WHOLE)]
    assert result[0] == CpuCost(ROUTER, 64, 1_000.0, (1.0,))


def test_the_latency_of_a_proxy_is_its_difference_to_the_engine_alone() -> None:
    runs = [run(DIRECT, 0, wait_ms=1.0), run(MINE, 0, wait_ms=1.5), run(MINE, 0, streams=WHOLE)]
    (result,) = added_latencies(runs)
    assert (result.proxy, result.streams) == (MINE, 64)
    assert result.first_ms == pytest.approx((0.5, 1.0))
    assert result.gap_ms == pytest.approx((1.5, 2.0))


def test_every_proxy_begins_a_round_in_turn() -> None:
    assert [rotation("abc", round_)[0] for round_ in range(4)] == ["a", "b", "c", "a"]
    assert sorted(rotation("abc", 5)) == ["a", "b", "c"]


def test_rows_are_sorted_by_load_and_mark_missing_values() -> None:
    result = [
        CpuCost(MINE, WHOLE, 60.04, (0.8,)),
        CpuCost(MINE, 256, 20.0, ()),
        CpuCost(MINE, 64, 30.0, (3.0, 1.0, 1.234)),
    ]
    assert cost_rows(result) == [
        ["64 streams", MINE, "30.0", "1.23", "1.00-3.00"],
        ["256 streams", MINE, "20.0", "-", "-"],
        ["small requests", MINE, "60.0", "0.80", "0.80-0.80"],
    ]
    assert added_rows([AddedLatency(MINE, 1, (0.1, -0.2), (0.0, 1.5))]) == [
        ["1 stream", MINE, "+0.10", "-0.20", "+0.00", "+1.50"]
    ]
    memory = Memory(MINE, 1_000, 16, 40 * 2**20, 40 * 2**20 + 1_000 * 2**10)
    assert memory_rows([memory]) == [[MINE, "40.0", "41.0", "1.0"]]
    assert load_name(WHOLE) == "small requests"
