"""The DynamoDB table: its key schema, the shape of a node's record, and that of a stream's checkpoint.

One table, two string keys. A node's record holds its state and the timeline of its interruption: each step, with
its source and its time. The node itself and the Lambdas write it, in any order and more than once, so:

* a state only moves forward (`state_rank`), within one incarnation of the agent;
* a timeline step is added once for each (step, source): a repeated event changes nothing;
* records expire (`expires_at`, the table's TTL attribute); a reader ignores expired ones, since TTL deletes late;
* every write renews that, and a writer that finds no record creates it again: a record in use is never deleted for
  its age.

A stream's record names the object that holds its journal after its replicas have ended. It moves forward, too: by the
epoch's number, its owner, and the number of the last event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from node_agent.contract.errors import SynktiError
from node_agent.contract.items import mapping, seconds, text, whole
from node_agent.contract.states import NodeState

PARTITION_KEY = "pk"
SORT_KEY = "sk"
TTL_ATTRIBUTE = "expires_at"
RECORD_LIFE_S = 7 * 24 * 3600
"""A week: long enough to look into an interruption after a weekend."""

CHECKPOINT_LIFE_S = 3600
"""Longer than a replica holds a journal: a fleet that is stopped and started again loads its models first."""


def node_key(instance_id: str) -> dict[str, str]:
    """Return the primary key of a node's record (`NodeRecord`); a restarted agent reuses it."""
    return {PARTITION_KEY: f"node#{instance_id}", SORT_KEY: "record"}


def pool_key(zone: str, instance_type: str) -> dict[str, str]:
    """Return the primary key of a spot pool's record, which lists the pool's recent interruptions."""
    return {PARTITION_KEY: f"pool#{zone}#{instance_type}", SORT_KEY: "record"}


def stream_key(stream: str) -> dict[str, str]:
    """Return the primary key of a stream's checkpoint (`StreamRecord`)."""
    return {PARTITION_KEY: f"stream#{stream}", SORT_KEY: "record"}


@dataclass(frozen=True)
class TimelineStep:
    """One step of a node's timeline: `at` in unix seconds, `source` its reporter (imds, eventbridge, agent, ...)."""

    step: str
    source: str
    at: float

    @property
    def key(self) -> str:
        """The attribute's name in the record's timeline map: one for each step and source."""
        return f"{self.step}@{self.source}"


@dataclass(frozen=True)
class NodeRecord:
    """A node's record. `incarnation` is the agent's start (unix milliseconds); expires_at unix seconds."""

    instance_id: str
    zone: str
    instance_type: str
    state: NodeState
    incarnation: int
    expires_at: int
    timeline: Mapping[str, TimelineStep] = field(default_factory=dict)

    def to_item(self) -> dict[str, Any]:
        """Encode it as the DynamoDB resource API takes it; instants in whole milliseconds."""
        return {
            **node_key(self.instance_id),
            "instance_id": self.instance_id,
            "zone": self.zone,
            "instance_type": self.instance_type,
            "state": self.state.value,
            "state_rank": self.state.rank,
            "incarnation": self.incarnation,
            TTL_ATTRIBUTE: self.expires_at,
            "timeline": {key: step_item(step) for key, step in self.timeline.items()},
        }

    @property
    def story(self) -> tuple[TimelineStep, ...]:
        """The timeline in the order of time."""
        return tuple(sorted(self.timeline.values(), key=lambda step: (step.at, step.key)))


class RecordMissing(SynktiError):
    """The record that was to be changed is gone, or is of an older incarnation: begin it anew.

    timeline: of what is there in its place; an event may have been written before the node came to write.
    """

    def __init__(self, message: str, timeline: Mapping[str, TimelineStep]) -> None:
        super().__init__(message)
        self.timeline = timeline


def step_item(step: TimelineStep) -> dict[str, Any]:
    """Encode a step as the DynamoDB resource API takes it; its instant in whole milliseconds."""
    return {"step": step.step, "source": step.source, "at_ms": round(step.at * 1000)}


def renewed(at: float) -> int:
    """Return when a record that is written at `at` expires; both unix seconds."""
    return int(at) + RECORD_LIFE_S


def record_from_item(item: Mapping[str, Any]) -> NodeRecord:
    """Return the record that an item of the table encodes. Raises ValueError where it encodes none.

    A step of the timeline that cannot be read is left out: the state and the other steps are worth more than it.
    """
    return NodeRecord(
        instance_id=text(item, "instance_id"),
        zone=text(item, "zone"),
        instance_type=text(item, "instance_type"),
        state=NodeState(text(item, "state")),
        incarnation=whole(item, "incarnation"),
        expires_at=whole(item, TTL_ATTRIBUTE),
        timeline=timeline_from_item(item),
    )


def timeline_from_item(item: Mapping[str, Any]) -> dict[str, TimelineStep]:
    """Return the steps that can be read, by their keys; also of an item that is no complete record."""
    found = {}
    held = item.get("timeline")
    for value in held.values() if isinstance(held, Mapping) else ():
        try:
            step = _step_from_item(mapping(value, "timeline"))
        except ValueError:
            continue
        found[step.key] = step
    return found


def _step_from_item(item: Mapping[str, Any]) -> TimelineStep:
    return TimelineStep(text(item, "step"), text(item, "source"), seconds(item, "at_ms"))


class StreamStatus(StrEnum):
    """What became of a stream at its owner, in the one order in which the status may change (`contract/ownership`).

    A checkpoint is only written of a stream that is handed off, or orphaned.
    """

    OPEN = "open"
    """Its owner serves it."""

    ORPHANED = "orphaned"
    """Its owner was lost."""

    HANDED_OFF = "handed-off"
    """Its owner drained, and its client was sent the addresses of other nodes."""

    CLOSED = "closed"
    """It ended, or its client left."""

    @property
    def rank(self) -> int:
        """The position in that order."""
        return _STATUSES.index(self)


_STATUSES = tuple(StreamStatus)


@dataclass(frozen=True)
class StreamRecord:
    """A stream's checkpoint. number, owner: the epoch that its journal was written in; seq: of its last event.

    object_key, start, length: where in the checkpoints bucket the journal lies; digest: its SHA-256, hexadecimal;
    expires_at: unix seconds.
    """

    stream: str
    number: int
    owner: str
    seq: int
    status: StreamStatus
    object_key: str
    start: int
    length: int
    digest: str
    expires_at: int

    @property
    def progress(self) -> tuple[int, str, int]:
        """The epoch's number, its owner and the last event: compared in this order, it never decreases."""
        return self.number, self.owner, self.seq

    def to_item(self) -> dict[str, Any]:
        """Encode it as the DynamoDB resource API takes it."""
        return {
            **stream_key(self.stream),
            "stream": self.stream,
            "epoch_number": self.number,
            "epoch_owner": self.owner,
            "seq": self.seq,
            "status": self.status.value,
            "object_key": self.object_key,
            "start": self.start,
            "length": self.length,
            "digest": self.digest,
            TTL_ATTRIBUTE: self.expires_at,
        }


def stream_record_from_item(item: Mapping[str, Any]) -> StreamRecord:
    """Return the record that an item of the table encodes. Raises ValueError where it encodes none."""
    return StreamRecord(
        stream=text(item, "stream"),
        number=whole(item, "epoch_number"),
        owner=text(item, "epoch_owner"),
        seq=whole(item, "seq"),
        status=StreamStatus(text(item, "status")),
        object_key=text(item, "object_key"),
        start=whole(item, "start"),
        length=whole(item, "length"),
        digest=text(item, "digest"),
        expires_at=whole(item, TTL_ATTRIBUTE),
    )
