"""The Auto Scaling group's size, and the causes of its failed launches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_NODES = 1_000
"""The same limit as in the settings; a larger number is a typing error."""


@dataclass(frozen=True)
class GroupSize:
    """The group's minimum, maximum and desired capacity."""

    minimum: int
    maximum: int
    desired: int


def with_desired(size: GroupSize, nodes: int) -> GroupSize:
    """Return the size with another desired capacity; its bounds are extended if needed, until the next deployment."""
    return GroupSize(min(size.minimum, nodes), max(size.maximum, nodes), nodes)


@dataclass(frozen=True)
class LaunchFailure:
    """A failed launch. at: unix seconds; message: AWS's."""

    at: float
    message: str
    advice: str


_KNOWN_CAUSES = (
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


def launch_failures(activities: Iterable[Mapping[str, Any]], since: float) -> tuple[LaunchFailure, ...]:
    """Return the failed launches, the newest first, each cause once.

    activities: as DescribeScalingActivities has them, the newest first; since: unix seconds.
    """
    found: dict[str, LaunchFailure] = {}
    for activity in activities:
        if activity.get("StatusCode") not in ("Failed", "Cancelled"):
            continue
        at = activity["StartTime"].timestamp()
        message = str(activity.get("StatusMessage") or activity.get("Description") or "no reason given")
        if at >= since:
            found.setdefault(_advice(message) or message, LaunchFailure(at, message, _advice(message)))
    return tuple(found.values())


def _advice(message: str) -> str:
    lowered = message.lower()
    for words, advice in _KNOWN_CAUSES:
        if any(word.lower() in lowered for word in words):
            return advice
    return ""
