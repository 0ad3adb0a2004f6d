"""The cluster's EC2 instances and Auto Scaling group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from botocore.exceptions import ClientError

from cli.aws_errors import error_code
from cli.core.nodes import NODE_EC2_STATES, Node, node_of
from cli.core.scaling_group import GroupState, LaunchFailure, launch_failures
from cli.errors import NotFound
from node_agent.contract.group_size import GroupSize
from node_agent.contract.names import LAUNCH_PROCESS
from node_agent.contract.tags import (
    CLUSTER_TAG,
    EMULATED_END_TAG,
    EMULATED_REPLACE,
    EMULATED_SHRINK,
    SHUT_OUT_TAG,
)


class Instances:
    """Reads the cluster's instances. client: boto3's of EC2. Methods raise BotoCoreError and ClientError."""

    def __init__(self, client: Any, cluster: str) -> None:
        self._client = client
        self._cluster = cluster

    def nodes(self) -> tuple[Node, ...]:
        """Return the cluster's nodes that are pending or running, the oldest first."""
        filters = [
            {"Name": f"tag:{CLUSTER_TAG}", "Values": [self._cluster]},
            {"Name": "instance-state-name", "Values": list(NODE_EC2_STATES)},
        ]
        pages = self._client.get_paginator("describe_instances").paginate(Filters=filters)
        every = [i for page in pages for reservation in page["Reservations"] for i in reservation["Instances"]]
        nodes = [node for instance in every if (node := node_of(instance)) is not None]
        return tuple(sorted(nodes, key=lambda node: (node.launched_at, node.instance_id)))

    def shut_out(self, instance_id: str, *, undo: bool = False) -> None:
        """Tag an instance as shut out. undo: remove the tag."""
        tag = {"Key": SHUT_OUT_TAG}
        if undo:
            self._client.delete_tags(Resources=[instance_id], Tags=[tag])
        else:
            self._client.create_tags(Resources=[instance_id], Tags=[{**tag, "Value": "yes"}])

    def request_emulated_end(self, instance_id: str, *, shrink: bool) -> None:
        """Have the program that emulates the group on this machine terminate an instance. shrink: as `Group`'s."""
        tag = {"Key": EMULATED_END_TAG, "Value": EMULATED_SHRINK if shrink else EMULATED_REPLACE}
        self._client.create_tags(Resources=[instance_id], Tags=[tag])

    def terminate(self, instance_id: str) -> None:
        """Terminate an instance at once: no hook of its group waits for it. The group launches another."""
        self._client.terminate_instances(InstanceIds=[instance_id])

    def is_running(self, instance_id: str) -> bool:
        """Return whether an instance is pending or running, also where it has no tags any more."""
        try:
            reservations = self._client.describe_instances(InstanceIds=[instance_id])["Reservations"]
        except ClientError as error:
            if error_code(error) == "InvalidInstanceID.NotFound":
                return False
            raise
        states = [each["State"]["Name"] for reservation in reservations for each in reservation["Instances"]]
        return any(state in NODE_EC2_STATES for state in states)


class Group:
    """An Auto Scaling group. client: boto3's; name: the group's. Methods raise BotoCoreError, ClientError, NotFound."""

    def __init__(self, client: Any, name: str) -> None:
        self.name = name
        self._client = client

    def size(self) -> GroupSize:
        """Return the group's present size."""
        return self.state().size

    def state(self) -> GroupState:
        """Return the group's present size, and whether its launches are suspended."""
        answer = self._client.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        if not answer["AutoScalingGroups"]:
            raise NotFound(f"there is no Auto Scaling group {self.name}", "continue with synkti bootstrap")
        group = answer["AutoScalingGroups"][0]
        suspended = {each["ProcessName"] for each in group.get("SuspendedProcesses", ())}
        size = GroupSize(group["MinSize"], group["MaxSize"], group["DesiredCapacity"])
        return GroupState(size, LAUNCH_PROCESS in suspended)

    def resume_launches(self) -> None:
        """Let the group launch instances again."""
        self._client.resume_processes(AutoScalingGroupName=self.name, ScalingProcesses=[LAUNCH_PROCESS])

    def resize(self, size: GroupSize) -> None:
        """Set the group's size; instances that are then too many drain before they end."""
        self._client.update_auto_scaling_group(
            AutoScalingGroupName=self.name,
            MinSize=size.minimum,
            MaxSize=size.maximum,
            DesiredCapacity=size.desired,
        )

    def make_room(self) -> None:
        """Lower the group's minimum where it would not let the desired size be one less."""
        size = self.size()
        if size.minimum >= size.desired > 0:
            self.resize(replace(size, minimum=size.desired - 1))

    def terminate(self, instance_id: str, *, shrink: bool) -> None:
        """Terminate an instance; the group's hook lets it drain first. shrink: reduce the desired size by one."""
        if shrink:
            self.make_room()
        self._client.terminate_instance_in_auto_scaling_group(
            InstanceId=instance_id, ShouldDecrementDesiredCapacity=shrink
        )

    def launch_failures(self, since: float) -> tuple[LaunchFailure, ...]:
        """Return why launches failed since then (unix seconds), from the group's last hundred activities."""
        answer = self._client.describe_scaling_activities(AutoScalingGroupName=self.name, MaxRecords=100)
        return launch_failures(answer["Activities"], since)
