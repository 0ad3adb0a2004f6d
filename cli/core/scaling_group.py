"""The Auto Scaling group: how many nodes it keeps, and why it could not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_NODES = 1_000
"""As in the settings: more is a mistake in typing."""


@dataclass(frozen=True)
class Size:
    """What the group is told: at least, at most, and now."""

    least: int
    most: int
    desired: int


def resized(size: Size, nodes: int) -> Size:
    """The group's bounds give way to what a person asks for; the next deployment sets them again."""
    return Size(min(size.least, nodes), max(size.most, nodes), nodes)


@dataclass(frozen=True)
class LaunchFailure:
    """Why the group could not launch an instance. at: unix seconds; said: AWS's own words."""

    at: float
    said: str
    advice: str


_KNOWN = (
    (
        ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded"),
        "the quota for spot GPUs is too small: synkti doctor says how much of which one to ask for",
    ),
    (
        ("VcpuLimitExceeded", "vCPU capacity than your current vCPU limit"),
        "the quota for on-demand GPUs is too small: synkti doctor says how much of which one to ask for",
    ),
    (
        ("InsufficientInstanceCapacity", "UnfulfillableCapacity", "no Spot capacity available", "not enough capacity"),
        "EC2 has none of these instances now: name more instance_types or zones, or set on_demand_base in synkti.toml",
    ),
    (
        ("Unsupported", "not supported in your requested Availability Zone"),
        "this zone does not have this instance type; the group tries others. Remove the type if no zone has it",
    ),
    (
        ("InvalidParameterValue", "launch template", "InvalidAMIID", "image id"),
        "the launch template is not accepted: synkti doctor, and compare synkti.toml with it",
    ),
    (
        ("lifecycle action with action result ABANDON", "lifecycle hook"),
        "a node did not become ready in time: synkti logs NODE, or its last log in the checkpoints bucket",
    ),
)


def troubles(activities: Iterable[Mapping[str, Any]], since: float) -> tuple[LaunchFailure, ...]:
    """What kept the group from its size, the newest first, each reason once.

    activities: as DescribeScalingActivities has them, the newest first; since: unix seconds.
    """
    found: dict[str, LaunchFailure] = {}
    for activity in activities:
        if activity.get("StatusCode") not in ("Failed", "Cancelled"):
            continue
        at = activity["StartTime"].timestamp()
        said = str(activity.get("StatusMessage") or activity.get("Description") or "no reason given")
        if at >= since:
            found.setdefault(_advice(said) or said, LaunchFailure(at, said, _advice(said)))
    return tuple(found.values())


def _advice(said: str) -> str:
    lowered = said.lower()
    for words, advice in _KNOWN:
        if any(word.lower() in lowered for word in words):
            return advice
    return ""
