"""EC2: the instance that an event names, and its tags."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from lambdas.core.decisions import InstanceSeen
from node_agent.contract.tags import NodeTags

_UNKNOWN = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})


class Ec2Instances:
    """The Instances port, over a boto3 EC2 client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, instance_id: str) -> InstanceSeen | None:
        try:
            answer = self._client.describe_instances(InstanceIds=[instance_id])
        except ClientError as error:
            if error.response["Error"]["Code"] in _UNKNOWN:
                return None
            raise
        found = [instance for each in answer["Reservations"] for instance in each["Instances"]]
        if not found:
            return None
        tags = {tag["Key"]: tag["Value"] for tag in found[0].get("Tags", [])}
        zone = found[0].get("Placement", {}).get("AvailabilityZone", "")
        return InstanceSeen(instance_id, zone, found[0].get("InstanceType", ""), tags)

    def tag(self, instance_id: str, tags: NodeTags) -> None:
        encoded = [{"Key": key, "Value": value} for key, value in tags.encode().items()]
        self._client.create_tags(Resources=[instance_id], Tags=encoded)
