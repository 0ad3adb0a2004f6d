"""AWS as the agent uses it: IMDS, EC2, the table, the Auto Scaling group and Secrets Manager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, TimelineStep
from node_agent.contract.tags import NodeTags
from node_agent.core.node.status import TaggedNode


@dataclass(frozen=True)
class Identity:
    """Identifies this instance."""

    instance_id: str
    zone: str
    region: str
    instance_type: str
    private_address: str
    """IPv4, inside the VPC."""


class Metadata(Protocol):
    """IMDSv2."""

    async def identity(self) -> Identity:
        """Return the identity of this instance, which never changes. Raises MetadataUnavailable."""
        ...

    async def interruption(self) -> InterruptionNotice | None:
        """Return the interruption notice, or None; one that cannot be parsed counts, with an infinite deadline."""
        ...

    async def rebalance(self) -> float | None:
        """Return when a rebalance recommendation was given, or None.

        In unix seconds; 0 where the time cannot be parsed.
        """
        ...

    async def termination_requested(self) -> bool:
        """Return whether the Auto Scaling group ends this instance: a scale-in, an update, a replacement."""
        ...


class Instances(Protocol):
    """EC2: the tags of this instance, and the other instances that carry the cluster's tag."""

    async def tag(self, instance_id: str, tags: NodeTags) -> None:
        """Write the tags that have a value, and remove the deadline where it has none. Raises StoreUnavailable."""
        ...

    async def untag(self, instance_id: str) -> None:
        """Remove NODE_TAGS, so that no node discovers the instance. Raises StoreUnavailable."""
        ...

    async def nodes(self, cluster: str, most_calls: int | None = None) -> list[TaggedNode]:
        """List running nodes. most_calls: of EC2's API, which returns a thousand nodes each; None for no bound."""
        ...


class Records(Protocol):
    """The table: this node's record and its timeline."""

    async def begin(self, record: NodeRecord) -> None:
        """Write the record of a new incarnation, in place of any other: incarnations are not compared."""
        ...

    async def advance(self, instance_id: str, incarnation: int, state: NodeState, step: TimelineStep) -> None:
        """Add a step once, and move the state if that is forward; both extend the record's expiry.

        Raises StaleEpoch where a newer incarnation owns the record, RecordMissing where it has to be created again.
        """
        ...

    async def put_drain(self, record: DrainRecord) -> None:
        """Write the record of a drain; the last write wins."""
        ...


class ScalingGroup(Protocol):
    """The Auto Scaling group of this instance."""

    async def complete_termination(self, instance_id: str) -> bool:
        """Report that the node has drained, which ends the group's wait. False where the group does not wait."""
        ...


class Secrets(Protocol):
    """Secrets Manager."""

    async def read(self, name: str) -> bytes:
        """Return the current value of a secret, never empty. Raises StoreUnavailable, also where there is none."""
        ...
