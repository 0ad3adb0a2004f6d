"""Decide how many of a group's instances are on-demand while spot has no capacity.

    a spot launch fails for lack of capacity --> the on-demand base rises by what is missing, up to its maximum
    a spot launch succeeds                   --> the on-demand base falls by one, down to what was deployed
    no spot launch has failed for a while    --> the same, by schedule (core/fallback_return)

Invariants:

* only a lack of spot capacity counts: on-demand instances do not help against a quota, a wrong image or a missing
  permission;
* a failed replacement of a node that still serves (a rebalance recommendation) raises nothing: nothing is missing;
* one instance always stays spot, so that the group keeps trying and its success is noticed;
* an event from before the last change, or older than 15 minutes, is ignored: it does not reflect the present state;
* a decision is recorded before it is carried out, so that a retry of the same event completes it;
* the group's own base is authoritative: a deployment or an operator may have set it in the meantime.
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
    ScheduledCheck,
)
from node_agent.contract.table_schema import RECORD_LIFE_S

MAX_EVENT_AGE_S = 900.0
"""Seconds. Auto Scaling tries again within minutes, so a newer event supersedes an older one."""

_SPOT_LAUNCH_FAILURE = "could not launch spot instances"
_SHORTAGE_CODES = ("InsufficientInstanceCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow")
"""AWS's codes for a lack of spot capacity; the last one also where the group sets no maximum price."""


class CapacityAction(Enum):
    """What an event changes; the values are in logs and in the names of metrics, such as CapacityLimit."""

    IGNORE = "ignore"
    RECORD_FAILURE = "note"
    """The time of the last failure; no instance is missing."""

    RECORD_SHORTAGE = "limit"
    """The same; instances are missing, and the base may not rise any more. There is an alarm for it."""

    RAISE = "raise"
    LOWER = "lower"


@dataclass(frozen=True)
class GroupDescription:
    """An Auto Scaling group as Auto Scaling describes it."""

    name: str
    on_demand_base: int
    desired: int
    present: int
    """Instances that are in service or about to be."""

    version: str = ""
    """Of the nodes that it launches, from its tag."""

    launches_suspended: bool = False
    """True where it launches nothing, whatever it lacks."""


@dataclass(frozen=True)
class CapacitySnapshot:
    """What Auto Scaling, the table and EC2 have on a launch."""

    group: GroupDescription | None
    """None where there is no such group."""

    record: CapacityRecord | None
    spot: bool | None = None
    """True where the launched instance is spot; None where it is unknown."""


@dataclass(frozen=True)
class BaseLimits:
    """The range of the on-demand base."""

    minimum: int
    """The base as deployed."""

    maximum: int
    """The limit up to which it may be raised."""

    def highest(self, desired: int) -> int:
        """Return the highest base of a group of this desired size: one place stays spot."""
        return max(self.minimum, min(self.maximum, desired - 1))


@dataclass(frozen=True)
class CapacityDecision:
    """What to change, and why."""

    action: CapacityAction
    reason: str
    record: CapacityRecord | None = None
    """The record to write first, in place of the one that was read."""

    on_demand_base: int | None = None
    """The base to set after that."""


def decide_capacity(event: LaunchEvent, snapshot: CapacitySnapshot, bounds: BaseLimits, now: float) -> CapacityDecision:
    """Decide what a launch event changes. now: unix seconds."""
    group, record = snapshot.group, snapshot.record
    if group is None:
        return _ignore("unknown group")
    if record is not None and record.event_id == event.event_id:
        return complete_change(record, group, bounds)
    if now - event.at > MAX_EVENT_AGE_S:
        return _ignore("older than 15 minutes")
    if record is not None and event.at < record.changed_at:
        return _ignore("older than the last change")
    match event:
        case LaunchFailed():
            return _on_launch_failed(event, group, record, bounds, now)
        case LaunchSucceeded():
            return _on_launch_succeeded(event, snapshot.spot, group, record, bounds, now)


def complete_change(record: CapacityRecord, group: GroupDescription, limits: BaseLimits) -> CapacityDecision:
    """Decide on a repeated event: its first invocation may have failed between the record and the group."""
    base = min(record.base, limits.highest(group.desired))  # the group may have become smaller since
    if base == group.on_demand_base:
        return _ignore("already done")
    action = CapacityAction.RAISE if base > group.on_demand_base else CapacityAction.LOWER
    return CapacityDecision(action, "completes an earlier decision", on_demand_base=base)


def _on_launch_failed(
    event: LaunchFailed, group: GroupDescription, record: CapacityRecord | None, bounds: BaseLimits, now: float
) -> CapacityDecision:
    code = spot_shortage_code(event.message)
    if code is None:
        return _ignore("not for lack of spot capacity")
    limit = bounds.highest(group.desired)
    missing = max(0, group.desired - group.present)  # 0: a replacement before an interruption, of a node that serves
    base = min(limit, group.on_demand_base + missing)
    held = record or initial_record(group)
    if base <= group.on_demand_base:
        noted = replace(
            held, failed_at=max(held.failed_at, event.at), version=held.version + 1, expires_at=_expires_at(now)
        )
        if missing:
            reason = f"{code}, and the base is at its limit, {limit}"
            return CapacityDecision(CapacityAction.RECORD_SHORTAGE, reason, noted)
        return CapacityDecision(CapacityAction.RECORD_FAILURE, f"{code}, and no instance is missing", noted)
    reason = f"{code}: {missing} of {group.desired} missing"
    changed = with_base(replace(held, failed_at=max(held.failed_at, event.at)), event, base, reason, now)
    return CapacityDecision(CapacityAction.RAISE, reason, changed, base)


def _on_launch_succeeded(
    event: LaunchSucceeded,
    spot: bool | None,
    group: GroupDescription,
    record: CapacityRecord | None,
    bounds: BaseLimits,
    now: float,
) -> CapacityDecision:
    if group.on_demand_base <= bounds.minimum:
        return _ignore("the base is not raised")
    if spot is None:
        return _ignore("unknown instance")
    if not spot:
        return _ignore("not a spot launch")
    held = record or initial_record(group)
    if event.at <= held.failed_at:
        return _ignore("older than the last failure")
    base = group.on_demand_base - 1
    reason = "spot launches succeed again"
    return CapacityDecision(CapacityAction.LOWER, reason, with_base(held, event, base, reason, now), base)


def spot_shortage_code(message: str) -> str | None:
    """Return AWS's code where a launch's message reports a lack of spot capacity, else None."""
    if _SPOT_LAUNCH_FAILURE not in message.lower():
        return None
    return next((code for code in _SHORTAGE_CODES if code.lower() in message.lower()), None)


def initial_record(group: GroupDescription) -> CapacityRecord:
    """Return the record of a group that has none: nothing has failed, nothing was changed."""
    return CapacityRecord(group.name, group.on_demand_base, 0.0, 0.0, "", 0, 0)


def with_base(
    record: CapacityRecord, event: LaunchEvent | ScheduledCheck, base: int, why: str, now: float
) -> CapacityRecord:
    """Return the record with another base, its reason and the event that changed it. now: unix seconds."""
    history = (*record.history, CapacityChange(base, event.at, why))[-MAX_HISTORY:]
    return replace(
        record,
        base=base,
        changed_at=now,
        event_id=event.event_id,
        version=record.version + 1,
        expires_at=_expires_at(now),
        history=history,
    )


def _expires_at(now: float) -> int:
    return int(now) + RECORD_LIFE_S


def _ignore(reason: str) -> CapacityDecision:
    return CapacityDecision(CapacityAction.IGNORE, reason)
