"""EC2 and its Auto Scaling group, as the commands see them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cli.core.nodes import HERE, Node, node_of
from cli.core.scaling_group import LaunchFailure, Size, troubles
from cli.errors import NotFound
from node_agent.contract.tags import CLUSTER_TAG


class Instances:
    """client: boto3's of EC2. Raises BotoCoreError and ClientError."""

    def __init__(self, client: Any, cluster: str) -> None:
        self._client = client
        self._cluster = cluster

    def nodes(self) -> tuple[Node, ...]:
        """The cluster's nodes that exist or are about to, the oldest first."""
        filters = [
            {"Name": f"tag:{CLUSTER_TAG}", "Values": [self._cluster]},
            {"Name": "instance-state-name", "Values": list(HERE)},
        ]
        pages = self._client.get_paginator("describe_instances").paginate(Filters=filters)
        every = [i for page in pages for reservation in page["Reservations"] for i in reservation["Instances"]]
        nodes = [node for instance in every if (node := node_of(instance)) is not None]
        return tuple(sorted(nodes, key=lambda node: (node.launched, node.instance_id)))


class Group:
    """client: boto3's of Auto Scaling; name: the group's. Raises BotoCoreError and ClientError, NotFound."""

    def __init__(self, client: Any, name: str) -> None:
        self.name = name
        self._client = client

    def size(self) -> Size:
        answer = self._client.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        if not answer["AutoScalingGroups"]:
            raise NotFound(f"there is no Auto Scaling group {self.name}", "go on with synkti bootstrap")
        group = answer["AutoScalingGroups"][0]
        return Size(group["MinSize"], group["MaxSize"], group["DesiredCapacity"])

    def resize(self, size: Size) -> None:
        self._client.update_auto_scaling_group(
            AutoScalingGroupName=self.name,
            MinSize=size.least,
            MaxSize=size.most,
            DesiredCapacity=size.desired,
        )

    def end(self, instance_id: str, *, shrink: bool) -> None:
        """Have the group end an instance, which its hook lets drain first. shrink: keep one less from now on."""
        size = self.size()
        if shrink and size.least >= size.desired > 0:  # else the group would refuse to go below its least
            self.resize(replace(size, least=size.desired - 1))
        self._client.terminate_instance_in_auto_scaling_group(
            InstanceId=instance_id, ShouldDecrementDesiredCapacity=shrink
        )

    def troubles(self, since: float) -> tuple[LaunchFailure, ...]:
        """Why launches failed since then (unix seconds), of the group's last hundred activities."""
        answer = self._client.describe_scaling_activities(AutoScalingGroupName=self.name, MaxRecords=100)
        return troubles(answer["Activities"], since)
