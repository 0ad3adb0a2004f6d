"""What the Lambdas need of the outside, as protocols."""

from __future__ import annotations

from typing import Protocol

from lambdas.core.decisions import Decision, InstanceSeen
from node_agent.contract.records import NodeRecord
from node_agent.contract.tags import NodeTags


class RecordChanged(Exception):
    """The record is not as it was read: somebody else wrote meanwhile. Read again, and decide again."""


class Instances(Protocol):
    def find(self, instance_id: str) -> InstanceSeen | None: ...

    def tag(self, instance_id: str, tags: NodeTags) -> None: ...


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
