"""When spot has no capacity: how many instances are to be on demand, for how long.

    a spot launch fails for lack of capacity --> the base rises by what is missing, up to its limit
    a spot launch succeeds                   --> the base falls by one, down to what was deployed

Rules kept here:

* only a lack of spot capacity counts: a quota, a wrong image or a missing permission is not mended by money;
* one place is always left for spot: it is how the group goes on trying, and how its success is noticed;
* an event from before the last change says nothing of what that change did; one that is a quarter of an hour late
  says nothing of now;
* what was decided is recorded before it is done, so that a retry of the same event finishes it;
* the group itself is the truth: a deployment, or a person, may have set its base meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from node_agent.contract.capacity import (
    MAX_HISTORY,
    CapacityChange,
    CapacityRecord,
    LaunchEvent,
    LaunchFailed,
    LaunchSucceeded,
)
from node_agent.contract.table_schema import RECORD_LIFE_S

LATE_S = 900.0
"""Auto Scaling tries again within minutes; an older event has been overtaken."""

_SPOT = "could not launch spot instances"
_LACKS = ("InsufficientInstanceCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow")
"""AWS's codes for "no spot instance to be had"; the last one where the group names no price, but means the same."""


class CapacityAction(Enum):
    IGNORE = "ignore"
    NOTE = "note"
    RAISE = "raise"
    LOWER = "lower"


@dataclass(frozen=True)
class GroupDescription:
    """The group as Auto Scaling describes it. present: instances that are in service or on their way."""

    name: str
    base: int
    desired: int
    present: int


@dataclass(frozen=True)
class CapacitySnapshot:
    """What is known; group None: there is no such group. spot: whether the launched instance is one, None: unknown."""

    group: GroupDescription | None
    record: CapacityRecord | None
    spot: bool | None = None


@dataclass(frozen=True)
class BaseLimits:
    """base: what was deployed; limit: what it may be raised to."""

    base: int
    limit: int


@dataclass(frozen=True)
class CapacityDecision:
    """What to do, and why. record: to write first, over the one that was read; base: what the group is to have then."""

    action: CapacityAction
    reason: str
    record: CapacityRecord | None = None
    base: int | None = None


def decide_capacity(event: LaunchEvent, snapshot: CapacitySnapshot, bounds: BaseLimits, now: float) -> CapacityDecision:
    """now: unix seconds."""
    group, record = snapshot.group, snapshot.record
    if group is None:
        return _ignore("unknown group")
    if record is not None and record.event_id == event.event_id:
        return _finish(record, group)
    if now - event.at > LATE_S:
        return _ignore("too late to say anything of now")
    if record is not None and event.at < record.changed_at:
        return _ignore("from before the last change")
    match event:
        case LaunchFailed():
            return _failed(event, group, record, bounds, now)
        case LaunchSucceeded():
            return _succeeded(event, snapshot.spot, group, record, bounds, now)


def _finish(record: CapacityRecord, group: GroupDescription) -> CapacityDecision:
    """The same event again: its first invocation may have failed between the record and the group."""
    if record.base == group.base:
        return _ignore("done before")
    action = CapacityAction.RAISE if record.base > group.base else CapacityAction.LOWER
    return CapacityDecision(action, "what was begun before", base=record.base)


def _failed(
    event: LaunchFailed, group: GroupDescription, record: CapacityRecord | None, bounds: BaseLimits, now: float
) -> CapacityDecision:
    lack = lack_of_spot(event.message)
    if lack is None:
        return _ignore("not for lack of spot capacity")
    limit = max(bounds.base, min(bounds.limit, group.desired - 1))
    missing = max(1, group.desired - group.present)
    base = min(limit, group.base + missing)
    held = record or _no_record(group)
    if base <= group.base:
        noted = replace(held, failed_at=max(held.failed_at, event.at), version=held.version + 1, expires_at=_life(now))
        return CapacityDecision(CapacityAction.NOTE, f"{lack}, and the base is at its bound, {limit}", noted)
    reason = f"{lack}: {missing} of {group.desired} missing"
    changed = _changed(replace(held, failed_at=max(held.failed_at, event.at)), event, base, reason, now)
    return CapacityDecision(CapacityAction.RAISE, reason, changed, base)


def _succeeded(
    event: LaunchSucceeded,
    spot: bool | None,
    group: GroupDescription,
    record: CapacityRecord | None,
    bounds: BaseLimits,
    now: float,
) -> CapacityDecision:
    if group.base <= bounds.base:
        return _ignore("the base is not raised")
    if spot is None:
        return _ignore("unknown instance")
    if not spot:
        return _ignore("an on-demand launch says nothing of spot")
    held = record or _no_record(group)
    if event.at <= held.failed_at:
        return _ignore("older than the last failure")
    base = group.base - 1
    reason = "spot launches succeed again"
    return CapacityDecision(CapacityAction.LOWER, reason, _changed(held, event, base, reason, now), base)


def lack_of_spot(message: str) -> str | None:
    """AWS's code where the message says that there was no spot capacity, None where it says something else."""
    if _SPOT not in message.lower():
        return None
    return next((code for code in _LACKS if code.lower() in message.lower()), None)


def _no_record(group: GroupDescription) -> CapacityRecord:
    return CapacityRecord(group.name, group.base, 0.0, 0.0, "", 0, 0)


def _changed(record: CapacityRecord, event: LaunchEvent, base: int, why: str, now: float) -> CapacityRecord:
    history = (*record.history, CapacityChange(base, event.at, why))[-MAX_HISTORY:]
    return replace(
        record,
        base=base,
        changed_at=now,
        event_id=event.event_id,
        version=record.version + 1,
        expires_at=_life(now),
        history=history,
    )


def _life(now: float) -> int:
    return int(now) + RECORD_LIFE_S


def _ignore(reason: str) -> CapacityDecision:
    return CapacityDecision(CapacityAction.IGNORE, reason)
