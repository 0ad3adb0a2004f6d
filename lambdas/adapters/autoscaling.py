"""EC2 Auto Scaling: the fleet's group, and how many of its instances are never spot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambdas.adapters.answers import maps, number
from lambdas.core.on_demand_fallback import GroupDescription

_PRESENT = frozenset({"Pending", "Pending:Wait", "Pending:Proceed", "InService"})
"""In service, or on the way to it."""


def _base(group: Mapping[str, Any]) -> int:
    policy = group.get("MixedInstancesPolicy")
    distribution = policy.get("InstancesDistribution") if isinstance(policy, Mapping) else None
    return number(distribution.get("OnDemandBaseCapacity")) if isinstance(distribution, Mapping) else 0


class AutoScalingGroups:
    """The Groups port, over a boto3 Auto Scaling client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, group: str) -> GroupDescription | None:
        answer = self._client.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
        for found in maps(answer.get("AutoScalingGroups")):
            present = [each for each in maps(found.get("Instances")) if each.get("LifecycleState") in _PRESENT]
            return GroupDescription(group, _base(found), number(found.get("DesiredCapacity")), len(present))
        return None

    def set_base(self, group: str, base: int) -> None:
        """What a request does not name, stays: launch template, instance types, the strategy."""
        self._client.update_auto_scaling_group(
            AutoScalingGroupName=group,
            MixedInstancesPolicy={"InstancesDistribution": {"OnDemandBaseCapacity": base}},
        )
