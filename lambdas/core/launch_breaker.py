"""Decide whether the group goes on replacing nodes that can never serve.

    CLOSED --LIMIT nodes of the deployed version gave up, and none served between--> OPEN: launches are suspended
    OPEN --a node of that version serves, or another version is deployed, or an operator resumed--> CLOSED

Invariants:

* only nodes of the deployed version count: an old one says nothing about what is launched now;
* an instance counts once, however often and by whomever it is reported;
* a node that serves clears the count of those that gave up before it;
* the decision is recorded before it is carried out, so that a retry of the same event completes it;
* the breaker resumes only what it suspended, and never suspends again what an operator resumed, before LIMIT more nodes
  gave up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from lambdas.core.on_demand_fallback import GroupDescription
from node_agent.contract.capacity import LaunchSucceeded
from node_agent.contract.launch_breaker import BreakerEvent, BreakerRecord, GiveUp, NodeGaveUp
from node_agent.contract.table_schema import RECORD_LIFE_S

LIMIT = 3
"""Nodes in a row. One or two may be bad luck: a faulty host, an outage while they started."""

MAX_KEPT = 10
"""The most give-ups of a record."""

MAX_EVENT_AGE_S = 7_200.0
"""EventBridge retries for two hours."""


SETTLED_S = 300.0
"""Launches that are not suspended this long after the breaker opened were resumed by an operator. Before that, the
invocation that opened it may still be retried."""

_RENEW_BEFORE_S = 172_800.0
"""Before a record expires: an open breaker without one would not resume launches for the next version."""


class BreakerAction(Enum):
    """What an event changes; the values are in logs and in the names of metrics, such as BreakerOpen."""

    IGNORE = "ignore"
    COUNT = "count"
    OPEN = "open"
    CLEAR = "clear"
    """The count of nodes that gave up; launches were not suspended, or are resumed already."""

    CLOSE = "close"


@dataclass(frozen=True)
class BreakerDecision:
    """What to change, and why."""

    action: BreakerAction
    reason: str
    record: BreakerRecord | None = None
    """The record to write first, in place of the one that was read."""

    suspend: bool | None = None
    """After that: True suspends launches, False resumes them, None leaves them."""


def decide_breaker(
    event: BreakerEvent,
    group: GroupDescription | None,
    record: BreakerRecord | None,
    node_version: str | None,
    now: float,
) -> BreakerDecision:
    """Decide what a node that gave up, or serves, changes.

    Args:
        event: about one instance.
        group: as Auto Scaling describes it; None where there is no such group.
        record: of the breaker; None where there is none.
        node_version: from the instance's tag; None where it is no node of this cluster.
        now: unix seconds.

    Returns:
        The decision, with its reason.
    """
    if group is None:
        return _ignore("unknown group")
    if record is not None and record.is_open and record.event_id == event.event_id:
        if group.launches_suspended:
            return _ignore("already done")
        return BreakerDecision(BreakerAction.OPEN, "completes an earlier decision", suspend=True)
    if node_version is None:
        return _ignore("not a node of this cluster")
    if node_version != group.version:
        return _ignore("a node of another version")
    if now - event.at > MAX_EVENT_AGE_S:
        return _ignore("older than two hours")
    held = _current(record, group, now)
    if isinstance(event, LaunchSucceeded):
        return _on_served(event, group, held, now)
    return _on_gave_up(event, held, now)


def decide_resume(group: GroupDescription | None, record: BreakerRecord | None, now: float) -> BreakerDecision:
    """Decide, by schedule, whether launches resume: what was deployed since then has to be launched. now: unix s."""
    if group is None or record is None or not record.is_open:
        return _ignore("the breaker is closed")
    if group.version == record.fleet_version and not _is_resumed(record, group, now):
        renewed = _written(record, now, give_ups=record.give_ups)
        is_due = record.expires_at - now < _RENEW_BEFORE_S
        reason = f"version {record.fleet_version} cannot serve"
        return BreakerDecision(BreakerAction.IGNORE, reason, renewed if is_due else None)
    cleared = _written(_current(record, group, now), now, give_ups=(), opened_at=0.0)
    if not group.launches_suspended:
        return BreakerDecision(BreakerAction.CLEAR, "an operator resumed launches", cleared)
    return BreakerDecision(BreakerAction.CLOSE, f"version {group.version} is deployed", cleared, suspend=False)


def _on_gave_up(event: NodeGaveUp, held: BreakerRecord, now: float) -> BreakerDecision:
    if any(each.instance_id == event.instance_id for each in held.give_ups):
        return _ignore("already counted")
    give_ups = (*held.give_ups, GiveUp(event.instance_id, event.at, event.reason))[-MAX_KEPT:]
    if held.is_open or len(give_ups) < LIMIT:
        counted = _written(held, now, give_ups=give_ups)
        return BreakerDecision(BreakerAction.COUNT, f"{len(give_ups)} nodes in a row gave up", counted)
    opened = replace(_written(held, now, give_ups=give_ups, opened_at=now), event_id=event.event_id)
    reason = f"{len(give_ups)} nodes in a row gave up, the last one: {event.reason}"
    return BreakerDecision(BreakerAction.OPEN, reason, opened, suspend=True)


def _on_served(event: LaunchSucceeded, group: GroupDescription, held: BreakerRecord, now: float) -> BreakerDecision:
    later = tuple(each for each in held.give_ups if each.at > event.at)
    if len(later) == len(held.give_ups):
        return _ignore("no node gave up before it")
    cleared = _written(held, now, give_ups=later, opened_at=0.0)
    if held.is_open and group.launches_suspended:
        return BreakerDecision(BreakerAction.CLOSE, "a node of this version serves", cleared, suspend=False)
    return BreakerDecision(BreakerAction.CLEAR, "a node of this version serves", cleared)


def _is_resumed(record: BreakerRecord, group: GroupDescription, now: float) -> bool:
    """Return whether an operator resumed what the breaker suspended."""
    return record.is_open and not group.launches_suspended and now - record.opened_at > SETTLED_S


def _current(record: BreakerRecord | None, group: GroupDescription, now: float) -> BreakerRecord:
    """Return the record, begun anew where it is of another version, or an operator resumed what it suspended."""
    if record is None:
        return BreakerRecord(group.name, group.version, (), 0.0, "", 0, 0)
    if record.fleet_version != group.version or _is_resumed(record, group, now):
        return replace(record, fleet_version=group.version, give_ups=(), opened_at=0.0)
    return record


def _written(
    record: BreakerRecord, now: float, *, give_ups: tuple[GiveUp, ...], opened_at: float | None = None
) -> BreakerRecord:
    return replace(
        record,
        give_ups=give_ups,
        opened_at=record.opened_at if opened_at is None else opened_at,
        version=record.version + 1,
        expires_at=int(now) + RECORD_LIFE_S,
    )


def _ignore(reason: str) -> BreakerDecision:
    return BreakerDecision(BreakerAction.IGNORE, reason)
