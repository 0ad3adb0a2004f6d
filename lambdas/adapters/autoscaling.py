"""EC2 Auto Scaling: describe the cluster's group and set its on-demand base (instances that are never spot)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lambdas.adapters.responses import mappings, non_negative_int
from lambdas.core.on_demand_fallback import GroupDescription
from node_agent.contract.names import LAUNCH_PROCESS
from node_agent.contract.tags import VERSION_TAG, tags_from_ec2

_PRESENT_STATES = frozenset({"Pending", "Pending:Wait", "Pending:Proceed", "InService"})
"""Lifecycle states of an instance that is in service or about to be."""


def _on_demand_base(group: Mapping[str, Any]) -> int:
    policy = group.get("MixedInstancesPolicy")
    distribution = policy.get("InstancesDistribution") if isinstance(policy, Mapping) else None
    return non_negative_int(distribution.get("OnDemandBaseCapacity")) if isinstance(distribution, Mapping) else 0


class AutoScalingGroups:
    """Implements the Groups port with a boto3 Auto Scaling client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, group: str) -> GroupDescription | None:
        """Describe the group; None where there is none of this name. Raises botocore's errors."""
        answer = self._client.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
        for found in mappings(answer.get("AutoScalingGroups")):
            present = [
                each for each in mappings(found.get("Instances")) if each.get("LifecycleState") in _PRESENT_STATES
            ]
            return GroupDescription(
                group,
                _on_demand_base(found),
                non_negative_int(found.get("DesiredCapacity")),
                len(present),
                tags_from_ec2(found.get("Tags")).get(VERSION_TAG, ""),
                any(each.get("ProcessName") == LAUNCH_PROCESS for each in mappings(found.get("SuspendedProcesses"))),
            )
        return None

    def suspend_launches(self, group: str) -> None:
        """Stop the group from launching instances, and nothing else. Raises botocore's errors."""
        self._client.suspend_processes(AutoScalingGroupName=group, ScalingProcesses=[LAUNCH_PROCESS])

    def resume_launches(self, group: str) -> None:
        """Let the group launch instances again. Raises botocore's errors."""
        self._client.resume_processes(AutoScalingGroupName=group, ScalingProcesses=[LAUNCH_PROCESS])

    def set_on_demand_base(self, group: str, base: int) -> None:
        """Set the base, and nothing else of the group. Raises botocore's errors."""
        # UpdateAutoScalingGroup keeps what a request does not name: launch template, instance types, the strategy.
        self._client.update_auto_scaling_group(
            AutoScalingGroupName=group,
            MixedInstancesPolicy={"InstancesDistribution": {"OnDemandBaseCapacity": base}},
        )
