"""EC2 Auto Scaling: the fleet's group, and how many of its instances are never spot."""

from __future__ import annotations

from typing import Any

from lambdas.core.fallback import GroupSeen

_PRESENT = frozenset({"Pending", "Pending:Wait", "Pending:Proceed", "InService"})
"""In service, or on the way to it."""


class AutoScalingGroups:
    """The Groups port, over a boto3 Auto Scaling client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, group: str) -> GroupSeen | None:
        answer = self._client.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
        for found in answer["AutoScalingGroups"]:
            distribution = found.get("MixedInstancesPolicy", {}).get("InstancesDistribution", {})
            present = [each for each in found.get("Instances", []) if each["LifecycleState"] in _PRESENT]
            base = int(distribution.get("OnDemandBaseCapacity", 0))
            return GroupSeen(group, base, int(found["DesiredCapacity"]), len(present))
        return None

    def set_base(self, group: str, base: int) -> None:
        """What a request does not name, stays: launch template, instance types, the strategy."""
        self._client.update_auto_scaling_group(
            AutoScalingGroupName=group,
            MixedInstancesPolicy={"InstancesDistribution": {"OnDemandBaseCapacity": base}},
        )
