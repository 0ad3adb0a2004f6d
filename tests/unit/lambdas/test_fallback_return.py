"""The scheduled return to spot: when a raised base falls, by how much, and what a repeated check does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambdas.core.fallback_return import QUIET_S, STEP_S, decide_return
from lambdas.core.on_demand_fallback import BaseLimits, CapacityAction, CapacityDecision, GroupDescription
from node_agent.contract.capacity import CapacityRecord, ScheduledCheck, parse_check

GROUP = "synkti-fleet"
AT = 1_000_000.0
CHECK = ScheduledCheck("s-1", AT)
RAISED = CapacityRecord(GROUP, 2, AT - QUIET_S, AT - QUIET_S, "e-0", 3, 99)


def decided(base: int = 2, record: CapacityRecord | None = RAISED, desired: int = 3) -> CapacityDecision:
    """The group is complete: it launches nothing, so that no event reports spot capacity."""
    return decide_return(CHECK, GroupDescription(GROUP, base, desired, desired), record, BaseLimits(0, 2), AT)


def test_the_base_of_a_complete_group_falls_by_one_half_an_hour_after_the_last_failure() -> None:
    decision = decided()
    assert (decision.action, decision.on_demand_base) == (CapacityAction.LOWER, 1)
    assert decision.reason == "no spot launch has failed for 30 minutes"
    assert decision.record is not None
    assert (decision.record.base, decision.record.changed_at, decision.record.event_id) == (1, AT, "s-1")
    assert (decision.record.version, decision.record.history[-1].base) == (4, 1)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (replace(RAISED, failed_at=AT - QUIET_S + 1), "a spot launch failed 1799 s ago"),
        (replace(RAISED, changed_at=AT - STEP_S + 1), "the base changed 599 s ago"),
    ],
)
def test_it_waits_after_a_failure_and_after_a_step(record: CapacityRecord, reason: str) -> None:
    decision = decided(record=record)
    assert (decision.action, decision.reason, decision.record) == (CapacityAction.IGNORE, reason, None)


def test_a_base_that_is_not_raised_or_of_an_unknown_group_stays() -> None:
    assert decided(base=0).reason == "the base is not raised"
    assert decide_return(CHECK, None, None, BaseLimits(0, 2), AT).reason == "unknown group"


def test_a_raised_base_without_a_record_falls() -> None:
    assert decided(record=None).on_demand_base == 1


@pytest.mark.parametrize(("desired", "base"), [(2, 1), (1, 0), (0, 0)])
def test_a_base_above_the_limit_of_a_smaller_group_falls_at_once(desired: int, base: int) -> None:
    decision = decided(record=replace(RAISED, failed_at=AT), desired=desired)
    assert (decision.action, decision.on_demand_base) == (CapacityAction.LOWER, base)


def test_a_repeated_check_completes_what_its_first_invocation_recorded_and_no_more() -> None:
    first = decided()
    again = decided(record=first.record)
    assert (again.action, again.on_demand_base, again.record) == (CapacityAction.LOWER, 1, None)
    assert decided(base=1, record=first.record).reason == "already done"


def test_only_a_schedules_event_is_a_check() -> None:
    event = {"id": "s-1", "detail-type": "Scheduled Event", "time": "1970-01-12T13:46:40Z", "detail": {}}
    assert parse_check(event) == CHECK
    assert parse_check({**event, "detail-type": "EC2 Instance Launch Successful"}) is None
    with pytest.raises(ValueError, match="id"):
        parse_check({**event, "id": ""})
