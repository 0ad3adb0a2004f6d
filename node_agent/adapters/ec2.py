"""Tag this instance, and list the running instances with the cluster's tag."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from node_agent.adapters.aws import aws_threads, in_thread
from node_agent.contract.addresses import node_address
from node_agent.contract.names import PEER_DOOR_PORT
from node_agent.contract.tags import (
    CLUSTER_TAG,
    DEADLINE_TAG,
    NODE_TAGS,
    ROLE_TAG,
    WORKER_ROLE,
    NodeTags,
    decode_tags,
    tags_from_ec2,
)
from node_agent.core.node.discovery_schedule import PAGE_NODES
from node_agent.core.node.status import TaggedNode


class Ec2:
    """The Instances port, over a boto3 EC2 client."""

    def __init__(self, client: Any, peer_port: int = PEER_DOOR_PORT) -> None:
        self._client = client
        self._threads = aws_threads("ec2")
        self._peer_port = peer_port

    async def tag(self, instance_id: str, tags: NodeTags) -> None:
        """Set an instance's tags, and delete the deadline's tag where they have none. Raises StoreUnavailable."""
        encoded = tags.encode()

        def call() -> None:
            self._client.create_tags(Resources=[instance_id], Tags=[{"Key": k, "Value": v} for k, v in encoded.items()])
            if DEADLINE_TAG not in encoded:
                self._client.delete_tags(Resources=[instance_id], Tags=[{"Key": DEADLINE_TAG}])

        await in_thread("tagging this instance", call, self._threads)

    async def untag(self, instance_id: str) -> None:
        """Delete the tags that the agent sets on an instance; other tags stay. Raises StoreUnavailable."""
        keys = [{"Key": key} for key in NODE_TAGS]
        await in_thread(
            "untagging this instance",
            lambda: self._client.delete_tags(Resources=[instance_id], Tags=keys),
            self._threads,
        )

    async def nodes(self, cluster: str, most_calls: int | None = None) -> list[TaggedNode]:
        """Return the pending and running nodes of a cluster. Raises StoreUnavailable.

        most_calls: pages of DescribeInstances, each of up to PAGE_NODES instances; None for all.
        """
        filters = [
            {"Name": f"tag:{CLUSTER_TAG}", "Values": [cluster]},
            {"Name": f"tag:{ROLE_TAG}", "Values": [WORKER_ROLE]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]

        def call() -> list[TaggedNode]:
            paginator = self._client.get_paginator("describe_instances")
            pages = islice(paginator.paginate(Filters=filters, PaginationConfig={"PageSize": PAGE_NODES}), most_calls)
            reservations = [each for page in pages for each in _maps(page.get("Reservations"))]
            instances = [each for reservation in reservations for each in _maps(reservation.get("Instances"))]
            return [node for instance in instances if (node := self._node(instance)) is not None]

        return await in_thread("looking for peers", call, self._threads)

    def _node(self, instance: Mapping[str, Any]) -> TaggedNode | None:
        """Return an instance's node; None where it is no node, or has no address.

        A tag without a valid address counts as absent.
        """
        tags, instance_id = decode_tags(tags_from_ec2(instance.get("Tags"))), instance.get("InstanceId")
        private = node_address(f"{instance.get('PrivateIpAddress')}:{self._peer_port}")
        address = (tags.address if tags else None) or private
        if tags is None or address is None or not isinstance(instance_id, str) or not instance_id:
            return None
        return TaggedNode(instance_id, address, tags.state, tags.public_key, tags.cluster_keys, tags.is_shut_out)


def _maps(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings of a list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
