"""The size of the Auto Scaling group: what it is, what a deployment makes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupSize:
    """The group's minimum, maximum and desired capacity."""

    minimum: int
    maximum: int
    desired: int


@dataclass(frozen=True)
class DeployedSize:
    """The group's size as the stacks define it. nodes: None where the fleet scales automatically within its bounds."""

    minimum: int
    maximum: int
    nodes: int | None


def as_deployed(size: GroupSize, deployed: DeployedSize) -> GroupSize:
    """Return the deployed size; where the fleet scales automatically, the present number within its bounds."""
    wanted = size.desired if deployed.nodes is None else deployed.nodes
    return GroupSize(deployed.minimum, deployed.maximum, min(max(wanted, deployed.minimum), deployed.maximum))
