"""EC2: describe the instance that an event names, and write its tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from lambdas.adapters.responses import error_code, mappings
from lambdas.core.decisions import InstanceDescription
from node_agent.contract.tags import NodeTags, tags_from_ec2

_UNKNOWN_INSTANCE_CODES = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})


def _string_or_empty(value: object) -> str:
    return value if isinstance(value, str) else ""


class Ec2Instances:
    """Implements the Instances port with a boto3 EC2 client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, instance_id: str) -> InstanceDescription | None:
        """Describe the instance; None where EC2 has none of this id. Raises botocore's errors."""
        found = self._describe(instance_id)
        if found is None:
            return None
        placement = found.get("Placement")
        zone = placement.get("AvailabilityZone") if isinstance(placement, Mapping) else None
        return InstanceDescription(
            instance_id,
            _string_or_empty(zone),
            _string_or_empty(found.get("InstanceType")),
            tags_from_ec2(found.get("Tags")),
        )

    def is_spot(self, instance_id: str) -> bool | None:
        """Return whether the instance is spot; None where EC2 has none of this id. Raises botocore's errors."""
        found = self._describe(instance_id)
        return found.get("InstanceLifecycle") == "spot" if found is not None else None

    def _describe(self, instance_id: str) -> Mapping[str, Any] | None:
        try:
            answer = self._client.describe_instances(InstanceIds=[instance_id])
        except ClientError as error:
            if error_code(error) in _UNKNOWN_INSTANCE_CODES:
                return None
            raise
        reservations = mappings(answer.get("Reservations"))
        return next((instance for each in reservations for instance in mappings(each.get("Instances"))), None)

    def tag(self, instance_id: str, tags: NodeTags) -> None:
        """Write these tags; others of the instance stay. Raises botocore's errors."""
        encoded = [{"Key": key, "Value": value} for key, value in tags.encode().items()]
        self._client.create_tags(Resources=[instance_id], Tags=encoded)
