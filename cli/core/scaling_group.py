"""The Auto Scaling group's size, and the causes of its failed launches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from node_agent.contract import names
from node_agent.contract.group_size import DeployedSize, GroupSize

MAX_NODES = 1_000
"""The same limit as in the settings; a larger number is a typing error."""


@dataclass(frozen=True)
class GroupState:
    """The group's size, and whether its launches are suspended: then it replaces no node."""

    size: GroupSize
    launches_suspended: bool


def deployed_size(output: Callable[[str], str | None]) -> DeployedSize | None:
    """Return the deployed size. output: looks up a stack's output. None where stacks of an older version lack it."""
    found = [output(key) for key in (names.MIN_NODES_OUTPUT, names.MAX_NODES_OUTPUT, names.NODES_OUTPUT)]
    minimum, maximum, nodes = (int(each) if each and each.isdigit() else None for each in found)
    if minimum is None or maximum is None:
        return None
    return DeployedSize(minimum, maximum, nodes)


def with_desired(size: GroupSize, nodes: int, deployed: DeployedSize | None) -> GroupSize:
    """Return the size of a group that an operator gives `nodes` nodes.

    Args:
        size: of now.
        nodes: the number of nodes.
        deployed: gives the bounds, which are extended if needed; None: those of now count.

    Returns:
        The size. Zero nodes are zero bounds as well, so that automatic scaling does not start a stopped fleet again.
    """
    if deployed is None:
        return GroupSize(min(size.minimum, nodes), max(size.maximum, nodes), nodes)
    if nodes == 0:
        return GroupSize(0, 0, 0)
    return GroupSize(min(deployed.minimum, nodes), max(deployed.maximum, nodes), nodes)


def count_nodes(nodes: int) -> str:
    """Return a number of nodes in words: no nodes, 1 node, 2 nodes."""
    return {0: "no nodes", 1: "1 node"}.get(nodes, f"{nodes} nodes")


def shrink_question(cluster: str, before: int, after: int) -> str | None:
    """Return the question before nodes end; None where none does. before, after: desired nodes."""
    if after >= before:
        return None
    if after == 0:
        return f"Drain and end all of {cluster}'s nodes ({count_nodes(before)})? Then it answers no request"
    return f"Drain and end {count_nodes(before - after)} of {cluster}, so that it keeps {after}?"


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
