"""Decide what a node publishes to CloudWatch of the promise: streams continued and broken, events without a replica.

An agent's counters only grow. CloudWatch adds up what it receives, so a node publishes the growth since it last did.
What did not grow is not published: a metric costs only in the hours in which it has values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from node_agent.contract import names

COUNTERS: Mapping[str, str] = {
    "synkti_continuations_total": names.CONTINUED_METRIC,
    "synkti_streams_broken_total": names.BROKEN_METRIC,
    "synkti_unreplicated_events_total": names.UNREPLICATED_METRIC,
}
"""The agent's counters, and CloudWatch's names for them."""

PAUSES = "synkti_continuation_pause_seconds_bucket"
IN_FLIGHT = "synkti_engine_requests"
LONGEST_S = 60.0
"""Published for a pause above the histogram's last bound."""


@dataclass(frozen=True)
class Counts:
    """What a node has counted since its agent's start.

    totals: by the name in CloudWatch.
    pauses: continuations by the upper bound of their pause in seconds, of one bucket each.
    """

    totals: Mapping[str, float] = field(default_factory=dict)
    pauses: Mapping[float, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON's types, for `from_json`."""
        return {"totals": dict(self.totals), "pauses": {str(bound): n for bound, n in self.pauses.items()}}

    @classmethod
    def from_json(cls, value: Any) -> Counts:
        """Read what `to_json` returned. Raises ValueError, TypeError, KeyError, AttributeError for anything else."""
        totals = {str(name): float(n) for name, n in value["totals"].items()}
        return cls(totals, {float(bound): float(n) for bound, n in value["pauses"].items()})


Sample = tuple[str, Mapping[str, str], float]
"""One line of Prometheus's format: name, labels, value."""


def read_counts(samples: Iterable[Sample]) -> tuple[float | None, Counts]:
    """Return the requests in flight, None where the agent shows none, and its counts. Samples of no use are ignored."""
    in_flight: float | None = None
    totals: dict[str, float] = {}
    cumulative: dict[float, float] = {}
    for name, labels, value in samples:
        if not isfinite(value) or value < 0:
            continue
        if name == IN_FLIGHT:
            in_flight = value
        elif (published := COUNTERS.get(name)) is not None:
            totals[published] = totals.get(published, 0.0) + value
        elif name == PAUSES and (bound := _bound(labels.get("le", ""))) is not None:
            cumulative[bound] = value
    return in_flight, Counts(totals, _per_bucket(cumulative))


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return LONGEST_S if bound == inf else bound if 0 < bound < LONGEST_S else None


def _per_bucket(cumulative: Mapping[float, float]) -> dict[float, float]:
    """Return each bucket's own count; Prometheus's buckets include those below."""
    counts, below = {}, 0.0
    for bound in sorted(cumulative):
        counts[bound], below = max(0.0, cumulative[bound] - below), max(below, cumulative[bound])
    return counts


def metric_data(in_flight: float, now: Counts, before: Counts, cluster: str) -> list[dict[str, Any]]:
    """Return the parameter MetricData of PutMetricData.

    before: what was published last; an agent that restarted counts from zero again.
    """
    data = [_value(names.IN_FLIGHT_METRIC, in_flight, _group_dimensions(cluster))]
    for name, total in now.totals.items():
        if grown := _growth(total, before.totals.get(name, 0.0)):
            data.append(_value(name, grown, _cluster_dimensions(cluster)))
    pauses = {bound: _growth(n, before.pauses.get(bound, 0.0)) for bound, n in now.pauses.items()}
    seen = {bound: grown for bound, grown in pauses.items() if grown}
    if seen:
        data.append(
            {
                "MetricName": names.PAUSE_METRIC,
                "Dimensions": _cluster_dimensions(cluster),
                "Unit": "Seconds",
                "Values": list(seen),
                "Counts": list(seen.values()),
            }
        )
    return data


def _growth(now: float, before: float) -> float:
    return now - before if now >= before else now


def _value(name: str, value: float, dimensions: list[dict[str, str]]) -> dict[str, Any]:
    return {"MetricName": name, "Dimensions": dimensions, "Unit": "Count", "Value": value}


def _group_dimensions(cluster: str) -> list[dict[str, str]]:
    return [{"Name": "AutoScalingGroupName", "Value": names.auto_scaling_group_name(cluster)}]


def _cluster_dimensions(cluster: str) -> list[dict[str, str]]:
    """Return the dimensions of all metrics of this cluster that have no other: the Lambdas' metrics have the same."""
    return [{"Name": name, "Value": value} for name, value in names.metric_dimensions(cluster).items()]
