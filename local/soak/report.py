"""Evaluates a soak: a report with its violations, and a chart. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local.soak.load import LoadTotals
from local.soak.samples import Sample, lag_quantile, memory_growth
from sim.svg import lines

MAX_LAG_S = 0.02
"""At the 99th percentile of the agents' loops."""

MAX_GROWTH = 1.2
MAX_DESCRIPTOR_GROWTH = 64
"""The number of idle connections varies by some."""

_WARM_UP_S = 60.0


@dataclass(frozen=True)
class SoakReport:
    """The result of a soak.

    lag_p99_s: the bucket's upper bound; rss_growth, descriptors_grown: of the node that ran to the end, see
    `samples.memory_growth`; faults: the violated limits.
    """

    interruptions: Mapping[str, int]
    answers: int
    tokens: int
    wrong: int
    lag_p50_s: float
    lag_p99_s: float
    rss_mib_last: float
    rss_growth: float
    descriptors_grown: int
    faults: tuple[str, ...]


def build_report(
    samples: Sequence[Sample], watched_node: str, totals: LoadTotals, interruptions: Mapping[str, int]
) -> SoakReport:
    """watched_node: the node that lived from the beginning to the end."""
    own = [sample for sample in samples if sample.node == watched_node]
    lag, memory_ratio = lag_quantile(samples, 0.99), memory_growth(own, _WARM_UP_S)
    descriptors = _descriptors_grown([sample for sample in own if sample.age_s >= _WARM_UP_S])
    faults = []
    if totals.failures:
        faults.append(f"{len(totals.failures)} answers were wrong or ended with an error")
    if not totals.completed or not own:
        faults.append("nothing was measured")
    if lag > MAX_LAG_S:
        faults.append(f"the agents' loops were late: p99 up to {lag * 1000:g} ms, at most {MAX_LAG_S * 1000:g} ms")
    if memory_ratio > MAX_GROWTH:
        faults.append(f"memory grew {memory_ratio:.2f} times, at most {MAX_GROWTH:g}")
    if descriptors > MAX_DESCRIPTOR_GROWTH:
        faults.append(f"{descriptors} descriptors more at the end than before, at the same load")
    return SoakReport(
        interruptions=interruptions,
        answers=totals.completed,
        tokens=totals.tokens,
        wrong=len(totals.failures),
        lag_p50_s=lag_quantile(samples, 0.5),
        lag_p99_s=lag,
        rss_mib_last=round(own[-1].rss_mib, 1) if own else 0.0,
        rss_growth=round(memory_ratio, 3),
        descriptors_grown=descriptors,
        faults=tuple(faults),
    )


def _descriptors_grown(samples: Sequence[Sample]) -> int:
    """Compare the last third with the one before; two descriptors for each open stream are subtracted."""
    third = len(samples) // 3
    if third < 3:
        return 0

    def median(part: Sequence[Sample]) -> int:
        return sorted(sample.descriptors - 2 * sample.streams for sample in part)[len(part) // 2]

    return max(0, median(samples[-third:]) - median(samples[-2 * third : -third]))


def memory_chart(samples: Sequence[Sample], watched_node: str) -> str:
    """Draw the memory of all nodes over time as SVG."""
    own = [sample for sample in samples if sample.node == watched_node]
    others = [sample for sample in samples if sample.node != watched_node]
    return lines(
        "Memory of agents under load while nodes are taken away",
        "MiB",
        "minutes",
        {
            "the node that stays": [(sample.at / 60, sample.rss_mib) for sample in own],
            "the others, highest": _maximum_per_bucket(others),
        },
    )


def _maximum_per_bucket(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Return the largest sample in each 5 s."""
    most: dict[int, float] = {}
    for sample in samples:
        at = round(sample.at / 5)
        most[at] = max(most.get(at, 0.0), sample.rss_mib)
    return [(at * 5 / 60, rss) for at, rss in sorted(most.items())]
