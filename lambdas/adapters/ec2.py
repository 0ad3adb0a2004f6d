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
        found = self._describe(instance_id)
        if found is None:
            return None
        tags = {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}
        zone = found.get("Placement", {}).get("AvailabilityZone", "")
        return InstanceSeen(instance_id, zone, found.get("InstanceType", ""), tags)

    def is_spot(self, instance_id: str) -> bool | None:
        found = self._describe(instance_id)
        return found.get("InstanceLifecycle") == "spot" if found is not None else None

    def _describe(self, instance_id: str) -> dict[str, Any] | None:
        try:
            answer = self._client.describe_instances(InstanceIds=[instance_id])
        except ClientError as error:
            if error.response["Error"]["Code"] in _UNKNOWN:
                return None
            raise
        return next((instance for each in answer["Reservations"] for instance in each["Instances"]), None)

    def tag(self, instance_id: str, tags: NodeTags) -> None:
        encoded = [{"Key": key, "Value": value} for key, value in tags.encode().items()]
        self._client.create_tags(Resources=[instance_id], Tags=encoded)
