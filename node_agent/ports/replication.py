"""Copies of journals: connections to peers' replicas, checkpoints in S3, and the records of streams' owners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.table_schema import StreamRecord
from node_agent.core.common.address import Address
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.refusal import RefusalReason


class Checkpoints(Protocol):
    """The checkpoints bucket and the streams' records: journals of nodes that end."""

    async def write(self, key: str, body: bytes, records: Sequence[StreamRecord]) -> int:
        """Write the object, then the records, except those that would move their stream back.

        Returns how many records were written. Raises StoreUnavailable where the object or a record was not written.
        """
        ...

    async def find(self, stream: str) -> StreamRecord | None:
        """Return a stream's record; None where there is none. Raises StoreUnavailable."""
        ...

    async def read(self, record: StreamRecord) -> bytes | None:
        """Return the bytes that the record points at; None where the object does not exist any more."""
        ...


class StreamRecords(Protocol):
    """The table: this node's record of its open streams, and the ownership of single streams."""

    async def write_open(self, record: OpenStreams) -> None:
        """Write the record; what a Lambda added for this incarnation stays.

        Raises StaleEpoch where a newer incarnation has written its own.
        """
        ...

    async def read_open(self, instance_id: str) -> OpenStreams | None:
        """Return a node's record; None where there is none, or none that can be parsed."""
        ...

    async def advance(self, changes: Sequence[Ownership]) -> int:
        """Write those that move their stream forward (`contract/ownership`). Returns how many were written."""
        ...

    async def find(self, stream: str) -> Ownership | None:
        """Return a stream's ownership; None where there is no record, or none that can be parsed."""
        ...


class ReplicaLink(Protocol):
    """A connection to a peer's replica store (`core/replication/protocol`).

    It is made in the background; messages sent before are queued.
    """

    @property
    def is_late(self) -> bool:
        """True while an acknowledgement is overdue."""
        ...

    def send(self, message: bytes, receipt: object = None) -> None:
        """Send a message, together with the others of this moment. If it is lost, `lost` is called.

        receipt: passed to `acknowledged` once the replica has processed the message.
        """
        ...

    def close(self) -> None:
        """Close the connection without a call of the listener, also for messages that were not acknowledged."""
        ...


class LinkListener(Protocol):
    """Receives the events of a link."""

    def acknowledged(self, receipts: Sequence[Any]) -> None:
        """The replica has processed these messages; the refused ones were reported before."""
        ...

    def overdue(self, receipts: Sequence[Any]) -> None:
        """The acknowledgement of these messages is overdue; called once for each."""
        ...

    def refused(self, handle: int, reason: RefusalReason) -> None:
        """The replica refused a message of this stream."""
        ...

    def lost(self, reason: LinkLossReason) -> None:
        """The connection broke, or could not be made; called once."""
        ...


class ReplicaLinks(Protocol):
    """Opens connections to replicas."""

    def connect(self, address: Address, owner: LinkListener) -> ReplicaLink:
        """Open a link to the peer API at `address`; its events, also a failure to connect, are passed to `owner`."""
        ...
