"""What nodes look like from outside while they are soaked: memory, descriptors, how late their loops are. Pure but
for `take_sample`, which reads /proc and a node's metrics."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from local.emulated_instance import EmulatedInstance

_MIB = 1024 * 1024
_PAGE = 4096
_BUCKET = re.compile(r'synkti_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)')
_STREAMS = re.compile(r"^synkti_streams_open (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """One node at one moment. at: seconds since the beginning; age_s: of the node; lags: of its loop since its start,
    how many were at most so many seconds."""

    at: float
    node: str
    age_s: float
    rss_mib: float
    descriptors: int
    streams: int
    lags: Mapping[float, int]


async def take_sample(http: httpx.AsyncClient, instance: EmulatedInstance, at: float, age_s: float) -> Sample | None:
    """None where the node has no process any more, or does not answer."""
    with contextlib.suppress(OSError, httpx.HTTPError, ValueError, IndexError):
        proc = Path(f"/proc/{instance.agent.pid}")
        rss = int((proc / "statm").read_text().split()[1]) * _PAGE / _MIB
        descriptors = sum(1 for _ in (proc / "fd").iterdir())
        text = (await http.get(f"{instance.url}/metrics")).text
        lags = {float(le): int(float(count)) for le, count in _BUCKET.findall(text)}
        result = _STREAMS.search(text)
        streams = int(float(result.group(1))) if result else 0
        return Sample(at, instance.instance_id, age_s, rss, descriptors, streams, lags)
    return None


def lag_quantile(samples: Sequence[Sample], share: float) -> float:
    """The upper bound, in seconds, of the bucket that holds this quantile of all nodes' lags together."""
    last: dict[str, Mapping[float, int]] = {sample.node: sample.lags for sample in samples if sample.lags}
    bounds = sorted({bound for lags in last.values() for bound in lags})
    total = sum(lags.get(math.inf, 0) for lags in last.values())
    wanted = share * total
    for bound in bounds:
        if sum(lags.get(bound, 0) for lags in last.values()) >= wanted:
            return bound
    return math.inf


def memory_growth(samples: Sequence[Sample], least_age_s: float) -> float:
    """How much more memory nodes have in the last third of their lives than in the one before, as a ratio.

    Of nodes that lived on for a while, and counting from `least_age_s` on: a node that has just begun grows. Medians,
    so that a moment of failover is no growth. 1.0 where no node lived long enough.
    """
    worst = 1.0
    for node in {sample.node for sample in samples}:
        own = [sample.rss_mib for sample in samples if sample.node == node and sample.age_s >= least_age_s]
        third = len(own) // 3
        if third >= 3:
            worst = max(worst, _median(own[-third:]) / _median(own[-2 * third : -third]))
    return worst


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
