"""Protocols of the AWS services that the Lambdas use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lambdas.core.decisions import Decision, InstanceDescription
from lambdas.core.on_demand_fallback import GroupDescription
from node_agent.contract.capacity import CapacityRecord
from node_agent.contract.launch_breaker import BreakerRecord
from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.table_schema import NodeRecord
from node_agent.contract.tags import NodeTags


class RecordChanged(Exception):
    """A conditional write found another record than was read before. Read again, and decide again."""


class Instances(Protocol):
    """EC2 instances."""

    def find(self, instance_id: str) -> InstanceDescription | None:
        """Describe the instance; None where there is none of this id."""
        ...

    def tag(self, instance_id: str, tags: NodeTags) -> None:
        """Write these tags; others of the instance stay. Idempotent."""
        ...

    def is_spot(self, instance_id: str) -> bool | None:
        """Return whether the instance is spot; None where there is no such instance."""
        ...


class Records(Protocol):
    """Records of nodes and pools in the table."""

    def find(self, instance_id: str) -> NodeRecord | None:
        """Return the node's record; None where there is none, or none that can be parsed."""
        ...

    def write(self, decision: Decision) -> None:
        """Carry out a CREATE, ADVANCE or APPEND_STEP. Raises RecordChanged."""
        ...

    def record_interruption(self, zone: str, instance_type: str, at: float, now: float) -> None:
        """Add to the pool's recent interruptions. at, now: unix seconds. Raises RecordChanged."""
        ...

    def recent_interruptions(self, zone: str, instance_type: str) -> tuple[int, ...]:
        """Return the pool's recent interruptions in unix milliseconds, oldest first."""
        ...


class StreamRecords(Protocol):
    """Records in the table of nodes' open streams, and of what became of single streams."""

    def find(self, instance_id: str) -> OpenStreams | None:
        """Return the node's record of open streams; None where there is none, or none that can be parsed."""
        ...

    def advance(self, changes: Sequence[Ownership]) -> int:
        """Write those that move their stream forward (`contract/ownership`). Returns how many were written."""
        ...

    def mark_deadline(self, record: OpenStreams, deadline: float) -> None:
        """Add the deadline (unix seconds) to a record, which has none. Raises RecordChanged."""
        ...

    def mark_ended(self, record: OpenStreams, at: float) -> None:
        """Add when the node ended (unix seconds) to a record, where it has no end. Raises RecordChanged."""
        ...

    def orphaned(self, before: float, now: float) -> int:
        """Count the streams that are orphaned since before that time, and not expired; both unix seconds."""
        ...


class Groups(Protocol):
    """EC2 Auto Scaling groups."""

    def find(self, group: str) -> GroupDescription | None:
        """Describe the group; None where there is none of this name."""
        ...

    def set_on_demand_base(self, group: str, base: int) -> None:
        """Set how many of the group's instances are never spot. Idempotent."""
        ...


class Launches(Protocol):
    """The launches of EC2 Auto Scaling groups."""

    def find(self, group: str) -> GroupDescription | None:
        """Describe the group; None where there is none of this name."""
        ...

    def suspend_launches(self, group: str) -> None:
        """Stop the group from launching instances. Idempotent."""
        ...

    def resume_launches(self, group: str) -> None:
        """Let the group launch instances again. Idempotent."""
        ...


class BreakerRecords(Protocol):
    """Records in the table of nodes that gave up."""

    def find(self, group: str) -> BreakerRecord | None:
        """Return the group's record; None where there is none, or none that can be parsed."""
        ...

    def write(self, record: BreakerRecord) -> None:
        """Replace the version before. Raises RecordChanged where the table has another one."""
        ...


class CapacityRecords(Protocol):
    """Records in the table of how groups' on-demand bases were changed."""

    def find(self, group: str) -> CapacityRecord | None:
        """Return the group's record; None where there is none, or none that can be parsed."""
        ...

    def write(self, record: CapacityRecord) -> None:
        """Replace the version before. Raises RecordChanged where the table has another one."""
        ...
