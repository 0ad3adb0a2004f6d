"""Decide how an EC2 event changes a node's record and tags.

EC2 delivers events late, repeated, out of order, and for all instances of the account. Invariants:

* events of other clusters' instances, of unknown ones, and events that change nothing are ignored, with a reason;
* a state only moves forward; a late event still adds its step to the timeline, once;
* an event from before the node's present incarnation is about an earlier boot of the instance;
* tags are written only where they move the state forward, and never on a node that has removed its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from node_agent.contract.aws_events import (
    NOTICE_LEAD_S,
    TERMINAL_STATES,
    Ec2Event,
    RebalanceRecommendation,
    SpotInterruption,
    StateChange,
)
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import RECORD_LIFE_S, NodeRecord, TimelineStep
from node_agent.contract.tags import NodeTags, decode_tags

SOURCE = "eventbridge"
MAX_CLOCK_SKEW_S = 60.0
"""Events carry whole seconds of AWS's clock; an incarnation is in milliseconds of the node's clock."""

MAX_RECENT_INTERRUPTIONS = 20


@dataclass(frozen=True)
class InstanceDescription:
    """An instance as EC2 describes it."""

    instance_id: str
    zone: str
    instance_type: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Snapshot:
    """What EC2 and the table have on the event's instance; None where there is no such instance or record."""

    instance: InstanceDescription | None
    record: NodeRecord | None


class Action(Enum):
    """What an event changes in the table (see Decision); the values are in logs and in the names of metrics."""

    IGNORE = "ignore"
    CREATE = "create"
    ADVANCE = "advance"
    APPEND_STEP = "note"  # the value is part of a metric's name, EventNote


@dataclass(frozen=True)
class Decision:
    """What to write, and why.

    CREATE writes `record`; ADVANCE adds `step` and sets `state`; APPEND_STEP only adds `step`.
    """

    action: Action
    reason: str
    state: NodeState | None = None
    step: TimelineStep | None = None
    record: NodeRecord | None = None
    """The record to create, or as it was read, on which the write is conditional."""

    tags: NodeTags | None = None
    """The tags to write after the record."""

    interrupted: bool = False
    """True where the pool of the instance lost it to an interruption."""


def decide(event: Ec2Event, snapshot: Snapshot, cluster: str, now: float) -> Decision:
    """Decide what an event changes. cluster: the deployed cluster's name; now: unix seconds."""
    instance, record = snapshot.instance, snapshot.record
    if instance is None and record is None:
        return _ignore("unknown instance")
    tags = decode_tags(instance.tags) if instance is not None else None
    if record is None and (tags is None or tags.cluster != cluster):
        return _ignore("not a node of this cluster")
    interpreted = _interpret(event)
    if interpreted is None:
        return _ignore("nothing to do for this state")
    state, step, deadline = interpreted
    if record is not None and event.at + MAX_CLOCK_SKEW_S < record.incarnation / 1000:
        return _ignore("older than the node's incarnation")
    wanted = _tags_to_write(tags, cluster, state, deadline)
    if record is not None and step.key in record.timeline:
        # An earlier invocation may have failed between the record and the tags.
        return Decision(Action.IGNORE, "already recorded", tags=wanted)
    interrupted = isinstance(event, SpotInterruption)
    if record is None:
        created = _new_record(instance, state, step, now)
        return Decision(Action.CREATE, "first event of this node", state, step, created, wanted, interrupted)
    if record.state.rank < state.rank:
        return Decision(Action.ADVANCE, f"{record.state} -> {state}", state, step, record, wanted, interrupted)
    return Decision(Action.APPEND_STEP, f"already {record.state}", None, step, record, wanted, interrupted)


def _ignore(reason: str) -> Decision:
    return Decision(Action.IGNORE, reason)


def _interpret(event: Ec2Event) -> tuple[NodeState, TimelineStep, float | None] | None:
    """Return the event's state, its timeline step, and its deadline (unix seconds); None where it changes nothing."""
    match event:
        case SpotInterruption():
            step = TimelineStep("interruption-notice", SOURCE, event.at)
            return NodeState.DRAINING, step, event.at + NOTICE_LEAD_S
        case RebalanceRecommendation():
            return NodeState.AT_RISK, TimelineStep("rebalance-recommended", SOURCE, event.at), None
        case StateChange() if event.state in TERMINAL_STATES:
            return NodeState.GONE, TimelineStep(event.state, SOURCE, event.at), None
        case StateChange():
            return None


def _tags_to_write(held: NodeTags | None, cluster: str, state: NodeState, deadline: float | None) -> NodeTags | None:
    """Return the tags to write; None where the node has removed its own, or its state is at least as far."""
    if held is None or held.cluster != cluster or (held.state is not None and held.state.rank >= state.rank):
        return None
    return NodeTags(cluster, state, held.address, deadline)


def _new_record(instance: InstanceDescription | None, state: NodeState, step: TimelineStep, now: float) -> NodeRecord:
    if instance is None:
        raise AssertionError("a record is only created for an instance that EC2 described")
    return NodeRecord(
        instance_id=instance.instance_id,
        zone=instance.zone,
        instance_type=instance.instance_type,
        state=state,
        incarnation=0,
        expires_at=int(now) + RECORD_LIFE_S,
        timeline={step.key: step},
    )


def append_interruption(recent: tuple[int, ...], at: float) -> tuple[int, ...]:
    """Add an interruption to a pool's recent ones and drop the oldest above MAX_RECENT_INTERRUPTIONS.

    Args:
        recent: unix milliseconds.
        at: unix seconds.

    Returns:
        Unix milliseconds, oldest first; the same as `recent` where it has this interruption already.
    """
    return tuple(sorted({*recent, round(at * 1000)}))[-MAX_RECENT_INTERRUPTIONS:]
