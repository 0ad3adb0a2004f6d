"""The record of a stream's ownership in the table: which epoch it is in, and what became of it.

Nodes and Lambdas write it, in any order, late and more than once, so it only moves forward (`moves_forward`): to a
higher epoch, or in one epoch to a status of a higher rank:

    open -> orphaned -> handed-off -> closed

A node's own account outranks a Lambda's conclusion: of a node that EC2 reports as terminated a Lambda only knows that
its streams were open when it wrote last (`contract/open_streams`). Its last writes, or its replicas', may be known
later.

Most streams have no such record: one is written where a stream's owner changes, drains or ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from node_agent.contract.addresses import node_address
from node_agent.contract.items import seconds, text, texts, whole
from node_agent.contract.table_schema import (
    CHECKPOINT_LIFE_S,
    SORT_KEY,
    TTL_ATTRIBUTE,
    StreamStatus,
    stream_key,
)

OWNERSHIP_LIFE_S = 2 * CHECKPOINT_LIFE_S
"""Twice that of a node's record of open streams: no late event can orphan a stream again from an older record."""

STATUS_INDEX = "by-status"
STATUS_ATTRIBUTE, CHANGED_ATTRIBUTE = "stream_status", "changed_ms"
"""The index's partition key and sort key. Only records of ownership have both, so that it has nothing else."""

MAX_REPLICAS = 8
"""Above any real number; a longer list is no record of ours."""


def ownership_key(stream: str) -> dict[str, str]:
    """Return the primary key of a stream's record of ownership."""
    return {**stream_key(stream), SORT_KEY: "ownership"}


@dataclass(frozen=True)
class Ownership:
    """What became of a stream in one epoch.

    number, owner: the epoch; seq: the last event that the owner had written about; since: when it became the owner,
    changed_at: when the stream got this status, both unix seconds; replicas: the peer APIs' addresses of the nodes that
    have the journal, by instance id; expires_at: unix seconds.
    """

    stream: str
    number: int
    owner: str
    status: StreamStatus
    seq: int
    since: float
    changed_at: float
    expires_at: int
    replicas: Mapping[str, str] = field(default_factory=dict)

    @property
    def progress(self) -> tuple[int, str, int]:
        """The epoch's number, its owner and the status's rank: compared in this order, it never decreases."""
        return self.number, self.owner, self.status.rank

    @property
    def instance_id(self) -> str:
        """The node that owns the stream: its owner's id, without what tells two takeovers of one node apart."""
        return self.owner.partition("+")[0]

    def to_item(self) -> dict[str, Any]:
        """Encode it as the DynamoDB resource API takes it; instants in whole milliseconds."""
        return {
            **ownership_key(self.stream),
            "stream": self.stream,
            "epoch_number": self.number,
            "epoch_owner": self.owner,
            STATUS_ATTRIBUTE: self.status.value,
            "status_rank": self.status.rank,
            "seq": self.seq,
            "since_ms": round(self.since * 1000),
            CHANGED_ATTRIBUTE: round(self.changed_at * 1000),
            "replicas": addresses_to_texts(self.replicas),
            TTL_ATTRIBUTE: self.expires_at,
        }


def ownership_life(at: float) -> int:
    """Return when a record of ownership expires that is written at `at`; both unix seconds."""
    return int(at) + OWNERSHIP_LIFE_S


def moves_forward(held: Ownership | None, new: Ownership) -> bool:
    """Return whether `new` may replace `held`. An owner may write again that a stream is open: it renews the record."""
    if held is None or held.progress < new.progress:
        return True
    return held.progress == new.progress and new.status is StreamStatus.OPEN


def forward_condition(new: Ownership) -> tuple[str, dict[str, Any]]:
    """Return `moves_forward` as DynamoDB's condition of a write, with its values."""
    rank = "<=" if new.status is StreamStatus.OPEN else "<"
    condition = (
        "attribute_not_exists(epoch_number) OR epoch_number < :number OR (epoch_number = :number AND "
        f"(epoch_owner < :owner OR (epoch_owner = :owner AND status_rank {rank} :rank)))"
    )
    return condition, {":number": new.number, ":owner": new.owner, ":rank": new.status.rank}


def ownership_from_item(item: Mapping[str, Any]) -> Ownership:
    """Return the record that an item of the table encodes. Raises ValueError where it encodes none."""
    return Ownership(
        stream=text(item, "stream"),
        number=whole(item, "epoch_number"),
        owner=text(item, "epoch_owner"),
        status=StreamStatus(text(item, STATUS_ATTRIBUTE)),
        seq=whole(item, "seq"),
        since=seconds(item, "since_ms"),
        changed_at=seconds(item, CHANGED_ATTRIBUTE),
        expires_at=whole(item, TTL_ATTRIBUTE),
        replicas=addresses_from_texts(texts(item, "replicas")[:MAX_REPLICAS]),
    )


def addresses_to_texts(addresses: Mapping[str, str]) -> list[str]:
    """Return `<instance>=<address>` for each address by instance id."""
    return [f"{name}={address}" for name, address in addresses.items()]


def addresses_from_texts(values: Sequence[str]) -> dict[str, str]:
    """Return the addresses by instance id of such texts; one that has none is left out."""
    found = {}
    for value in values:
        name, _, address = value.partition("=")
        if name and node_address(address) is not None:
            found[name] = address
    return found
