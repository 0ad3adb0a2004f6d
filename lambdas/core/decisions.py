"""What an event of EC2 means for a node's record and tags.

Events are best effort: late, repeated, out of order, and about everybody's instances. Rules kept here:

* other people's instances, unknown ones, and events that change nothing are left alone, with a reason;
* a state only moves forward; an event that comes late still adds its step to the timeline, once;
* an event from before the node's present incarnation is about another life of the instance;
* tags are written only where they would move forward, and never on a node that has untagged itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from node_agent.contract.aws_events import (
    NOTICE_LEAD_S,
    Ec2Event,
    RebalanceRecommendation,
    SpotInterruption,
    StateChange,
)
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import RECORD_LIFE_S, NodeRecord, TimelineStep
from node_agent.contract.tags import NodeTags, decode_tags

SOURCE = "eventbridge"
_ENDING = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
_CLOCKS_DIFFER_S = 60.0
"""An event has whole seconds of AWS's clock, an incarnation milliseconds of the node's."""

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
    """What is known of the instance that the event names; None: EC2, or the table, knows nothing."""

    instance: InstanceDescription | None
    record: NodeRecord | None


class Action(Enum):
    IGNORE = "ignore"
    CREATE = "create"
    ADVANCE = "advance"
    NOTE = "note"


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    CREATE: write `record`; ADVANCE: add `step`, and move on to `state`; NOTE: add `step` only; record: as it was
    read, which the write depends on; tags: to write afterwards; interrupted: whether its pool lost an instance.
    """

    action: Action
    reason: str
    state: NodeState | None = None
    step: TimelineStep | None = None
    record: NodeRecord | None = None
    tags: NodeTags | None = None
    interrupted: bool = False


def decide(event: Ec2Event, snapshot: Snapshot, cluster: str, now: float) -> Decision:
    """cluster: this one's name; now: unix seconds."""
    instance, record = snapshot.instance, snapshot.record
    if instance is None and record is None:
        return _ignore("unknown instance")
    tags = decode_tags(instance.tags) if instance is not None else None
    if record is None and (tags is None or tags.cluster != cluster):
        return _ignore("not a node of this cluster")
    meaning = _meaning(event)
    if meaning is None:
        return _ignore("nothing to do for this state")
    state, step, deadline = meaning
    if record is not None and event.at + _CLOCKS_DIFFER_S < record.incarnation / 1000:
        return _ignore("older than the node's incarnation")
    wanted = _tags(tags, cluster, state, deadline)
    if record is not None and step.key in record.timeline:
        # A first invocation may have failed between the record and the tags.
        return Decision(Action.IGNORE, "told before", tags=wanted)
    interrupted = isinstance(event, SpotInterruption)
    if record is None:
        made = _new_record(instance, state, step, now)
        return Decision(Action.CREATE, "first heard of here", state, step, made, wanted, interrupted)
    if record.state.rank < state.rank:
        return Decision(Action.ADVANCE, f"{record.state} -> {state}", state, step, record, wanted, interrupted)
    return Decision(Action.NOTE, f"already {record.state}", None, step, record, wanted, interrupted)


def _ignore(reason: str) -> Decision:
    return Decision(Action.IGNORE, reason)


def _meaning(event: Ec2Event) -> tuple[NodeState, TimelineStep, float | None] | None:
    """The state that the event stands for, its step, and the deadline where there is one."""
    match event:
        case SpotInterruption():
            step = TimelineStep("interruption-notice", SOURCE, event.at)
            return NodeState.DRAINING, step, event.at + NOTICE_LEAD_S
        case RebalanceRecommendation():
            return NodeState.AT_RISK, TimelineStep("rebalance-recommended", SOURCE, event.at), None
        case StateChange() if event.state in _ENDING:
            return NodeState.GONE, TimelineStep(event.state, SOURCE, event.at), None
        case StateChange():
            return None


def _tags(held: NodeTags | None, cluster: str, state: NodeState, deadline: float | None) -> NodeTags | None:
    """The tags to write: None where the node has none any more, or is at least as far."""
    if held is None or held.cluster != cluster or (held.state is not None and held.state.rank >= state.rank):
        return None
    return NodeTags(cluster, state, held.address, deadline)


def _new_record(instance: InstanceDescription | None, state: NodeState, step: TimelineStep, now: float) -> NodeRecord:
    if instance is None:
        raise AssertionError("a record is only made for an instance that was seen")
    return NodeRecord(
        instance_id=instance.instance_id,
        zone=instance.zone,
        instance_type=instance.instance_type,
        state=state,
        incarnation=0,
        expires_at=int(now) + RECORD_LIFE_S,
        timeline={step.key: step},
    )


def with_interruption(recent: tuple[int, ...], at: float) -> tuple[int, ...]:
    """A pool's recent interruptions (unix milliseconds), one more, the oldest dropped at the bound."""
    return tuple(sorted({*recent, round(at * 1000)}))[-MAX_RECENT_INTERRUPTIONS:]
