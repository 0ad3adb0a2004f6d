"""The step that raises the on-demand base by an event, and waits for its return."""

from __future__ import annotations

from cli.adapters.drills import EventDrills
from cli.core.first_day.capacity import (
    DECIDED_WITHIN_S,
    RETURN_WITHIN_S,
    SHORTAGE,
    BaseDrill,
    GroupCapacity,
    event_time,
    gap,
    judge_base,
    refusal,
)
from cli.core.first_day.report import StepResult, not_run
from cli.first_day.day import POLL_S, FirstDay
from cli.first_day.run import Undo
from node_agent.contract.capacity import CapacityRecord

_RETURN_POLL_S = 15.0
_APPLIED_WITHIN_S = 20.0


def fallback_step(day: FirstDay, undo: Undo) -> StepResult:
    """Send the event of a failed spot launch while an instance is missing, and follow the on-demand base."""
    before = day.group.capacity()
    if why := refusal(before):
        return not_run(why)
    drills = EventDrills(day.fleet.account.client("events"), day.fleet.cluster)
    if not drills.is_enabled():
        return not_run("drills are off", "set drills = true in synkti.toml and deploy; and off again afterwards")
    embedded = day.fleet.account.is_embedded
    _make_gap(day, undo, before)
    _undo_base(day, undo, before)
    now, held = day.wall(), day.records.capacity(day.group.name)
    event_id = drills.send_launch_failure(day.group.name, SHORTAGE, event_time(now, held))
    record, shortage = _decided(day, event_id, before, held.version if held is not None else 0)
    _close_gap(day, before)
    raised_at = day.wall() if record is not None else None
    applied = record is not None and not embedded and _is_applied(day, before)
    returned_at = _returned(day, before) if applied else None
    last = day.records.capacity(day.group.name)
    reasons = tuple(f"{change.base}: {change.why}" for change in (last.history[-4:] if last is not None else ()))
    drill = BaseDrill(before, now, record.base if record else None, raised_at, applied, returned_at, shortage, reasons)
    return judge_base(drill, embedded=embedded)


def _make_gap(day: FirstDay, undo: Undo, before: GroupCapacity) -> None:
    """Have one instance missing, without a launch of it."""
    if not gap(before):
        return
    group = day.group
    undo.add("the group launches instances again", "synkti resume", lambda: _resume(day))
    group.suspend_launches()
    undo.add(
        f"the desired size is {before.desired} again",
        f"synkti scale {before.desired}",
        lambda: _set_desired(day, before),
    )
    group.set_desired(before.desired + 1)


def _close_gap(day: FirstDay, before: GroupCapacity) -> None:
    """Take the gap back at once: no node may be missing while the base is followed."""
    if gap(before):
        _set_desired(day, before)
        _resume(day)


def _resume(day: FirstDay) -> bool:
    if not day.group.capacity().launches_suspended:
        return False
    day.group.resume_launches()
    return True


def _set_desired(day: FirstDay, before: GroupCapacity) -> bool:
    if day.group.capacity().desired != before.desired + 1:
        return False  # set back already, or changed by another command since
    day.group.set_desired(before.desired)
    return True


def _undo_base(day: FirstDay, undo: Undo, before: GroupCapacity) -> None:
    def set_back() -> bool:
        if day.group.capacity().base <= before.base:
            return False
        day.group.set_base(before.base)
        return True

    remedy = f"the on-demand base of {day.group.name} was {before.base}: the schedule lowers it, or a deployment"
    undo.add(f"the on-demand base is {before.base} again", remedy, set_back)


def _decided(day: FirstDay, event_id: str, before: GroupCapacity, version: int) -> tuple[CapacityRecord | None, bool]:
    """Wait for the Lambda's record; return it where the base was raised, and whether it is at its limit."""
    give_up_at = day.clock.now() + DECIDED_WITHIN_S
    while day.clock.now() < give_up_at:
        record = day.records.capacity(day.group.name)
        if record is not None and record.event_id == event_id:
            return record, False
        if record is not None and record.version > version and record.base <= before.base:
            return None, True
        day.clock.sleep(POLL_S)
    return None, False


def _is_applied(day: FirstDay, before: GroupCapacity) -> bool:
    give_up_at = day.clock.now() + _APPLIED_WITHIN_S
    while day.clock.now() < give_up_at:
        if day.group.capacity().base > before.base:
            return True
        day.clock.sleep(POLL_S)
    return False


def _returned(day: FirstDay, before: GroupCapacity) -> float | None:
    give_up_at = day.clock.now() + RETURN_WITHIN_S
    while day.clock.now() < give_up_at:
        if day.group.capacity().base <= before.base:
            return day.wall()
        day.clock.sleep(_RETURN_POLL_S)
    return None
