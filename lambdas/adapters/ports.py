"""What the Lambdas need of the outside, as protocols."""

from __future__ import annotations

from typing import Protocol

from lambdas.core.decisions import Decision, InstanceDescription
from lambdas.core.on_demand_fallback import GroupDescription
from node_agent.contract.capacity import CapacityRecord
from node_agent.contract.table_schema import NodeRecord
from node_agent.contract.tags import NodeTags


class RecordChanged(Exception):
    """The record is not as it was read: somebody else wrote meanwhile. Read again, and decide again."""


class Instances(Protocol):
    def find(self, instance_id: str) -> InstanceDescription | None: ...

    def tag(self, instance_id: str, tags: NodeTags) -> None: ...

    def is_spot(self, instance_id: str) -> bool | None:
        """None where there is no such instance."""
        ...


class Records(Protocol):
    def find(self, instance_id: str) -> NodeRecord | None: ...

    def write(self, decision: Decision) -> None:
        """Carry a CREATE, ADVANCE or NOTE out. Raises RecordChanged."""
        ...

    def note_interruption(self, zone: str, instance_type: str, at: float, now: float) -> None:
        """Add to the pool's recent interruptions. Raises RecordChanged."""
        ...

    def recent_interruptions(self, zone: str, instance_type: str) -> tuple[int, ...]:
        """Unix milliseconds, oldest first."""
        ...


class Groups(Protocol):
    """EC2 Auto Scaling."""

    def find(self, group: str) -> GroupDescription | None: ...

    def set_base(self, group: str, base: int) -> None:
        """The group's instances that are never spot. Repeating it changes nothing."""
        ...


class CapacityRecords(Protocol):
    """The table: what was done about a lack of spot."""

    def find(self, group: str) -> CapacityRecord | None: ...

    def write(self, record: CapacityRecord) -> None:
        """Over the version before. Raises RecordChanged where that is not what is there."""
        ...
