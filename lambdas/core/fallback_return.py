"""Decide, by schedule, whether a raised on-demand base falls again.

A group that is complete launches nothing, so that no event shows that spot has capacity again. EC2 Auto Scaling
replaces instances when the base falls, and launches the spot instance before it ends the on-demand one. So a lower base
is how spot is tried: where the launch fails, the on-demand instance stays, and the failure is recorded.

Invariants:

* the base falls by one at a time, at most every STEP_S, and only while no spot launch has failed for QUIET_S;
* a base above its limit, as after the group was made smaller, falls to the limit at once;
* it never falls below what was deployed, and a check never raises it;
* a repeated check completes what its first invocation recorded.
"""

from __future__ import annotations

from lambdas.core.on_demand_fallback import (
    BaseLimits,
    CapacityAction,
    CapacityDecision,
    GroupDescription,
    complete_change,
    initial_record,
    with_base,
)
from node_agent.contract.capacity import CapacityRecord, ScheduledCheck

QUIET_S = 1_800.0
"""Seconds since the last failed spot launch. A shortage that ended a moment ago often returns."""

STEP_S = 600.0
"""Seconds between two steps: the spot launch that a step causes fails within minutes, if it fails."""


def decide_return(
    check: ScheduledCheck,
    group: GroupDescription | None,
    record: CapacityRecord | None,
    limits: BaseLimits,
    now: float,
) -> CapacityDecision:
    """Decide what a scheduled check changes.

    Args:
        check: the event.
        group: as Auto Scaling describes it; None where there is no such group.
        record: of the changes so far; None where there is none.
        limits: of the base.
        now: unix seconds.

    Returns:
        A LOWER with the new base, or an IGNORE with its reason.
    """
    if group is None:
        return CapacityDecision(CapacityAction.IGNORE, "unknown group")
    if record is not None and record.event_id == check.event_id:
        return complete_change(record, group, limits)
    if group.on_demand_base <= limits.minimum:
        return CapacityDecision(CapacityAction.IGNORE, "the base is not raised")
    held = record or initial_record(group)
    highest = limits.highest(group.desired)
    if group.on_demand_base > highest:
        base, reason = highest, f"the base is above its limit, {highest}"
    elif now - held.failed_at < QUIET_S:
        return CapacityDecision(CapacityAction.IGNORE, f"a spot launch failed {now - held.failed_at:.0f} s ago")
    elif now - held.changed_at < STEP_S:
        return CapacityDecision(CapacityAction.IGNORE, f"the base changed {now - held.changed_at:.0f} s ago")
    else:
        base, reason = group.on_demand_base - 1, f"no spot launch has failed for {QUIET_S / 60:.0f} minutes"
    return CapacityDecision(CapacityAction.LOWER, reason, with_base(held, check, base, reason, now), base)
