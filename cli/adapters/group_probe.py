"""The Auto Scaling group as the first-day drill examines and changes it."""

from __future__ import annotations

from typing import Any

from cli.core.first_day.capacity import GroupCapacity
from cli.core.first_day.lifecycle import Launch, launches_of
from cli.errors import NotFound
from lambdas.adapters.autoscaling import AutoScalingGroups

_ACTIVITIES = 100


class GroupProbe:
    """Reads and changes one group. client: boto3's. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any, name: str) -> None:
        self.name = name
        self._client = client
        self._groups = AutoScalingGroups(client)

    def capacity(self) -> GroupCapacity:
        """Return the group's sizes and its on-demand base. Raises NotFound where there is no group."""
        found = self._groups.find(self.name)
        if found is None:
            raise NotFound(f"there is no Auto Scaling group {self.name}", "continue with synkti bootstrap")
        answer = self._client.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        maximum = int(answer["AutoScalingGroups"][0]["MaxSize"])
        return GroupCapacity(found.desired, maximum, found.present, found.on_demand_base, found.launches_suspended)

    def launches(self) -> tuple[Launch, ...]:
        """Return the group's last launches, the newest first."""
        answer = self._client.describe_scaling_activities(AutoScalingGroupName=self.name, MaxRecords=_ACTIVITIES)
        return launches_of(answer["Activities"])

    def hook_timeout_s(self, hook: str) -> float | None:
        """Return the timeout of a lifecycle hook; None where the group has no such hook."""
        answer = self._client.describe_lifecycle_hooks(AutoScalingGroupName=self.name, LifecycleHookNames=[hook])
        return next((float(each["HeartbeatTimeout"]) for each in answer["LifecycleHooks"]), None)

    def states(self) -> dict[str, str]:
        """Return the lifecycle state of each of the group's instances."""
        pages = self._client.get_paginator("describe_auto_scaling_instances").paginate()
        every = [each for page in pages for each in page["AutoScalingInstances"]]
        return {
            each["InstanceId"]: each["LifecycleState"] for each in every if each["AutoScalingGroupName"] == self.name
        }

    def state_of(self, instance_id: str) -> str:
        """Return an instance's lifecycle state; empty where the group does not have it any more."""
        answer = self._client.describe_auto_scaling_instances(InstanceIds=[instance_id])
        return next((str(each["LifecycleState"]) for each in answer["AutoScalingInstances"]), "")

    def set_desired(self, desired: int) -> None:
        """Set the desired size."""
        self._client.set_desired_capacity(AutoScalingGroupName=self.name, DesiredCapacity=desired, HonorCooldown=False)

    def suspend_launches(self) -> None:
        """Stop the group from launching instances."""
        self._groups.suspend_launches(self.name)

    def resume_launches(self) -> None:
        """Let the group launch instances again."""
        self._groups.resume_launches(self.name)

    def set_base(self, base: int) -> None:
        """Set the on-demand base."""
        self._groups.set_on_demand_base(self.name, base)
