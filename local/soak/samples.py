"""Measures nodes from outside: memory, descriptors, the lag of their loops. Only `take_sample` does any I/O."""

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
    """One measurement of a node. at: seconds since the start; lags: counts of loop lags by upper bound in s."""

    at: float
    node: str
    age_s: float
    rss_mib: float
    descriptors: int
    streams: int
    lags: Mapping[float, int]


async def take_sample(http: httpx.AsyncClient, instance: EmulatedInstance, at: float, age_s: float) -> Sample | None:
    """Measure a node; None if it has no process or does not answer."""
    with contextlib.suppress(OSError, httpx.HTTPError, ValueError, IndexError):
        proc = Path(f"/proc/{instance.agent.pid}")
        rss = int((proc / "statm").read_text().split()[1]) * _PAGE / _MIB
        descriptors = sum(1 for _ in (proc / "fd").iterdir())
        text = (await http.get(f"{instance.admin_url}/metrics")).text
        lags = {float(le): int(float(count)) for le, count in _BUCKET.findall(text)}
        result = _STREAMS.search(text)
        streams = int(float(result.group(1))) if result else 0
        return Sample(at, instance.instance_id, age_s, rss, descriptors, streams, lags)
    return None


def lag_quantile(samples: Sequence[Sample], share: float) -> float:
    """Return the upper bound, in seconds, of the bucket that has this quantile of all nodes' lags."""
    last: dict[str, Mapping[float, int]] = {sample.node: sample.lags for sample in samples if sample.lags}
    bounds = sorted({bound for lags in last.values() for bound in lags})
    total = sum(lags.get(math.inf, 0) for lags in last.values())
    wanted = share * total
    for bound in bounds:
        if sum(lags.get(bound, 0) for lags in last.values()) >= wanted:
            return bound
    return math.inf


def memory_growth(samples: Sequence[Sample], least_age_s: float) -> float:
    """Return the largest ratio of a node's memory in the last third of its samples to the third before.

    Samples below `least_age_s` do not count, because a new node grows. Medians exclude the moments of failover. 1.0 if
    no node ran long enough.
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
