"""Computes figures from runs: costs, added latency, ratios of paired runs. Pure.

Doors take turns within a round, so that what the machine does meanwhile meets all of them alike. A figure of two doors
(a ratio, a difference) is therefore made round by round, and the median over the rounds is what is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

DIRECT, ROUTER, SYNKTI = "direct", "vllm-router", "synkti"
WHOLE = 0
"""In place of a number of streams: small requests that are not streamed."""

MIN_CPU_STREAMS = 64
"""With fewer, a run's CPU time is a few of the kernel's ticks of 10 ms: too few to report."""


def quantile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that `share` of all values do not exceed. Raises ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a quantile of nothing")
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


@dataclass(frozen=True)
class Run:
    """What one load on one door gave. streams: clients at once, or WHOLE; units: tokens, or requests where WHOLE.

    cpu_s: of the door's process; first_s: until the first byte of an answer, gap_s: between two tokens, as (median,
    99th percentile) in seconds, both 0 for WHOLE's gaps.
    """

    proxy: str
    streams: int
    round: int
    units: int
    cpu_s: float
    first_s: tuple[float, float]
    gap_s: tuple[float, float]

    @property
    def cost_us(self) -> float:
        """The proxy's CPU time for each token or request, in microseconds."""
        return self.cpu_s / self.units * 1e6


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a door: before its first client, and with `streams` live ones of `tokens` tokens each."""

    proxy: str
    streams: int
    tokens: int
    at_rest: int
    with_streams: int

    @property
    def bytes_per_stream(self) -> float:
        """What a live stream adds to the resident memory."""
        return (self.with_streams - self.at_rest) / self.streams


@dataclass(frozen=True)
class CpuCost:
    """CPU of one door: the median over the rounds, and each round's ratio to the router (none where it did not run)."""

    proxy: str
    streams: int
    cost_us: float
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class AddedLatency:
    """What a door adds to the engine's own times, in milliseconds: each (at the median, at the 99th percentile)."""

    proxy: str
    streams: int
    first_ms: tuple[float, float]
    gap_ms: tuple[float, float]


def paired_runs(runs: Sequence[Run], proxy: str, other: str, streams: int) -> list[tuple[Run, Run]]:
    """Return the runs of `proxy`, each with that of `other` of the same round."""
    others = {run.round: run for run in runs if run.proxy == other and run.streams == streams}
    return [
        (run, others[run.round])
        for run in runs
        if run.proxy == proxy and run.streams == streams and run.round in others
    ]


def cost_ratios(runs: Sequence[Run], proxy: str, other: str, streams: int) -> tuple[float, ...]:
    """Return the ratios of both proxies' CPU costs by round, without rounds in which the other used no tick."""
    return tuple(
        mine.cost_us / theirs.cost_us for mine, theirs in paired_runs(runs, proxy, other, streams) if theirs.cpu_s
    )


def cpu_costs(runs: Sequence[Run]) -> list[CpuCost]:
    """Return the cost of every proxy and load with enough CPU time, in the order of their first runs."""
    records = []
    for proxy, streams in _loads(runs):
        if proxy != DIRECT and (streams == WHOLE or streams >= MIN_CPU_STREAMS):
            own = [run.cost_us for run in runs if (run.proxy, run.streams) == (proxy, streams)]
            records.append(CpuCost(proxy, streams, median(own), cost_ratios(runs, proxy, ROUTER, streams)))
    return records


def added_latencies(runs: Sequence[Run]) -> list[AddedLatency]:
    """Return what every proxy adds to the direct engine's times of streams, in the order of their first runs."""
    records = []
    for proxy, streams in _loads(runs):
        pairs = paired_runs(runs, proxy, DIRECT, streams)
        if proxy != DIRECT and streams != WHOLE and pairs:
            first = _differences_ms(pairs, lambda run: run.first_s)
            records.append(AddedLatency(proxy, streams, first, _differences_ms(pairs, lambda run: run.gap_s)))
    return records


def _differences_ms(
    pairs: Sequence[tuple[Run, Run]], times: Callable[[Run], tuple[float, float]]
) -> tuple[float, float]:
    at_median = median((times(mine)[0] - times(theirs)[0]) * 1000 for mine, theirs in pairs)
    at_99 = median((times(mine)[1] - times(theirs)[1]) * 1000 for mine, theirs in pairs)
    return at_median, at_99


def _loads(runs: Sequence[Run]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((run.proxy, run.streams) for run in runs))


def rotation(proxies: Sequence[str], round_number: int) -> list[str]:
    """Return the proxies' order in a round: each is first in rotation."""
    shift = round_number % len(proxies)
    return [*proxies[shift:], *proxies[:shift]]


def load_name(streams: int) -> str:
    """Return how tables and messages name a load. streams: clients at once, or WHOLE."""
    return "small requests" if streams == WHOLE else f"{streams} streams" if streams > 1 else "1 stream"


def cost_rows(records: Sequence[CpuCost]) -> list[list[str]]:
    """load, door, microseconds, the median ratio, the least and the most of the rounds'."""
    ordered = sorted(records, key=lambda cost: (cost.streams == WHOLE, cost.streams))
    return [
        [load_name(cost.streams), cost.proxy, f"{cost.cost_us:.1f}", *_ratio_cells(cost.ratios)] for cost in ordered
    ]


def _ratio_cells(ratios: Sequence[float]) -> tuple[str, str]:
    return (f"{median(ratios):.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}") if ratios else ("-", "-")


def added_rows(records: Sequence[AddedLatency]) -> list[list[str]]:
    """load, door, added milliseconds: first token at p50 and p99, between tokens at p50 and p99."""
    ordered = sorted(records, key=lambda each: each.streams)
    return [
        [load_name(each.streams), each.proxy, *(f"{value:+.2f}" for value in (*each.first_ms, *each.gap_ms))]
        for each in ordered
    ]


def memory_rows(records: Sequence[Memory]) -> list[list[str]]:
    """door, MiB at rest, MiB with the streams, KiB for each stream."""
    return [
        [
            each.proxy,
            f"{each.at_rest / 2**20:.1f}",
            f"{each.with_streams / 2**20:.1f}",
            f"{each.bytes_per_stream / 2**10:.1f}",
        ]
        for each in records
    ]
