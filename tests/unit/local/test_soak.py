"""A soak's verdict: what counts as late, as grown, as leaked, and what does not."""

from __future__ import annotations

import math

import pytest

from local.soak.load import LoadTotals
from local.soak.report import build_report, memory_chart
from local.soak.samples import Sample, lag_quantile, memory_growth

ON_TIME = {0.001: 900, 0.02: 1_000, 1.0: 1_000, math.inf: 1_000}
LATE = {0.001: 900, 0.02: 980, 1.0: 1_000, math.inf: 1_000}


def life(node: str, rss: list[float], descriptors: list[int] | None = None, streams: int = 10) -> list[Sample]:
    held = descriptors or [50] * len(rss)
    return [Sample(60.0 + 5 * at, node, 60.0 + 5 * at, mib, held[at], streams, ON_TIME) for at, mib in enumerate(rss)]


def test_a_node_that_stays_flat_holds() -> None:
    found = build_report(life("i-1", [80.0] * 30), "i-1", LoadTotals(completed=5, tokens=500), {"sigkill": 2})
    assert found.faults == ()
    assert (found.rss_growth, found.descriptors_grown, found.lag_p99_s) == (1.0, 0, 0.02)


@pytest.mark.parametrize(
    ("samples", "tally", "fault"),
    [
        (life("i-1", [80.0] * 20 + [120.0] * 10), LoadTotals(completed=1), "memory grew 1.50 times"),
        (life("i-1", [80.0] * 30, [50] * 20 + [150] * 10), LoadTotals(completed=1), "100 descriptors more"),
        (life("i-1", [80.0] * 30), LoadTotals(completed=1, failures=["lost"]), "1 answers were wrong"),
        (life("i-1", [80.0] * 30), LoadTotals(), "nothing was measured"),
        ([Sample(0.0, "i-1", 60.0, 80.0, 50, 1, LATE)], LoadTotals(completed=1), "loops were late"),
    ],
)
def test_each_broken_rule_is_a_fault_in_the_report(samples: list[Sample], tally: LoadTotals, fault: str) -> None:
    assert any(fault in each for each in build_report(samples, "i-1", tally, {}).faults)


def test_a_moment_of_failover_is_no_growth() -> None:
    assert memory_growth(life("i-1", [80.0] * 28 + [200.0] * 2), 60.0) == 1.0


def test_a_node_that_has_just_begun_may_grow() -> None:
    young = [Sample(5.0 * at, "i-2", 5.0 * at, 40.0 + at, 50, 1, ON_TIME) for at in range(10)]
    assert memory_growth(young, 60.0) == 1.0


def test_lags_of_all_nodes_count_together_and_each_by_its_last_look() -> None:
    early, last = dict.fromkeys(ON_TIME, 1), ON_TIME
    samples = [
        Sample(0.0, "i-1", 0.0, 1.0, 1, 1, early),
        Sample(5.0, "i-1", 5.0, 1.0, 1, 1, last),
        Sample(5.0, "i-2", 5.0, 1.0, 1, 1, LATE),
    ]
    assert lag_quantile(samples, 0.5) == 0.001
    assert lag_quantile(samples, 0.99) == 0.02
    assert lag_quantile(samples, 0.995) == 1.0


def test_the_picture_has_both_lines_and_is_one_svg() -> None:
    svg = memory_chart([*life("i-1", [80.0] * 5), *life("i-2", [70.0] * 5)], "i-1")
    assert svg.count("<polyline") == 2
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
