"""What a soak has shown: a verdict with its reasons, and a picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local.soak.load import Tally
from local.soak.samples import Sample, growth, lag_quantile
from sim.svg import lines

MOST_LAG_S = 0.02
"""The 99th percentile of the agents' loops."""

MOST_GROWTH = 1.2
MOST_DESCRIPTORS_GROWN = 64
"""Idle connections that are kept for a moment differ by some."""

_SETTLED_S = 60.0


@dataclass(frozen=True)
class Verdict:
    """lag_p99_s: the bucket's upper bound; rss_growth, descriptors_grown: of the node that lived to the end, see
    `samples.growth`; faults: what did not hold, in words."""

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


def verdict(samples: Sequence[Sample], spared: str, tally: Tally, interruptions: Mapping[str, int]) -> Verdict:
    """spared: the node that lived from the beginning to the end."""
    own = [sample for sample in samples if sample.node == spared]
    lag, grown = lag_quantile(samples, 0.99), growth(own, _SETTLED_S)
    descriptors = _descriptors_grown([sample for sample in own if sample.age_s >= _SETTLED_S])
    faults = []
    if tally.wrong:
        faults.append(f"{len(tally.wrong)} answers were wrong or ended with an error")
    if not tally.answers or not own:
        faults.append("nothing was measured")
    if lag > MOST_LAG_S:
        faults.append(f"the agents' loops were late: p99 up to {lag * 1000:g} ms, at most {MOST_LAG_S * 1000:g} ms")
    if grown > MOST_GROWTH:
        faults.append(f"memory grew {grown:.2f} times, at most {MOST_GROWTH:g}")
    if descriptors > MOST_DESCRIPTORS_GROWN:
        faults.append(f"{descriptors} descriptors more at the end than before, at the same load")
    return Verdict(
        interruptions=interruptions,
        answers=tally.answers,
        tokens=tally.tokens,
        wrong=len(tally.wrong),
        lag_p50_s=lag_quantile(samples, 0.5),
        lag_p99_s=lag,
        rss_mib_last=round(own[-1].rss_mib, 1) if own else 0.0,
        rss_growth=round(grown, 3),
        descriptors_grown=descriptors,
        faults=tuple(faults),
    )


def _descriptors_grown(samples: Sequence[Sample]) -> int:
    """Of the last third against the one before, each less the streams open then: a stream has two of its own."""
    third = len(samples) // 3
    if third < 3:
        return 0

    def median(part: Sequence[Sample]) -> int:
        return sorted(sample.descriptors - 2 * sample.streams for sample in part)[len(part) // 2]

    return max(0, median(samples[-third:]) - median(samples[-2 * third : -third]))


def picture(samples: Sequence[Sample], spared: str) -> str:
    """Memory of all nodes over time as SVG, and the streams open on the one that lived to the end."""
    own = [sample for sample in samples if sample.node == spared]
    others = [sample for sample in samples if sample.node != spared]
    return lines(
        "Memory of agents under load while nodes are taken away",
        "MiB",
        "minutes",
        {
            "the node that stays": [(sample.at / 60, sample.rss_mib) for sample in own],
            "the others, highest": _highest(others),
        },
    )


def _highest(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Of all samples within the same 5 s, the largest."""
    most: dict[int, float] = {}
    for sample in samples:
        at = round(sample.at / 5)
        most[at] = max(most.get(at, 0.0), sample.rss_mib)
    return [(at * 5 / 60, rss) for at, rss in sorted(most.items())]
