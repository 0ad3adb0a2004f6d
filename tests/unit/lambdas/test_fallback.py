"""When spot has no capacity: late, repeated, out of order, and about other things included."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.core.on_demand_fallback import (
    MAX_EVENT_AGE_S,
    BaseLimits,
    CapacityAction,
    CapacityDecision,
    CapacitySnapshot,
    GroupDescription,
    decide_capacity,
    spot_shortage_code,
)
from node_agent.contract.capacity import MAX_HISTORY, CapacityRecord, LaunchEvent, LaunchFailed, LaunchSucceeded

GROUP = "synkti-fleet"
NODE = "i-0123456789abcdef0"
AT = 1_000_000.0
NO_SPOT = (
    "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity due to your request "
    "configuration. Please adjust your request and try again. Launching EC2 instance failed."
)
FAILED = LaunchFailed("e-1", GROUP, AT, NO_SPOT)
SUCCEEDED = LaunchSucceeded("e-2", GROUP, AT, NODE)
BOUNDS = BaseLimits(minimum=0, maximum=2)
RAISED = CapacityRecord(GROUP, 1, AT - 60, AT - 59, "e-0", 3, 99)


def group(base: int = 0, desired: int = 3, present: int = 2) -> GroupDescription:
    return GroupDescription(GROUP, base, desired, present)


def decided(
    event: LaunchEvent,
    seen: GroupDescription | None,
    record: CapacityRecord | None = None,
    spot: bool | None = True,
    now: float = AT + 3,
) -> CapacityDecision:
    return decide_capacity(event, CapacitySnapshot(seen, record, spot), BOUNDS, now)


def test_a_missing_spot_instance_raises_the_on_demand_base() -> None:
    decision = decided(FAILED, group())
    assert (decision.action, decision.on_demand_base) == (CapacityAction.RAISE, 1)
    assert decision.reason == "UnfulfillableCapacity: 1 of 3 missing"
    record = decision.record
    assert record is not None
    assert (record.base, record.failed_at, record.changed_at, record.event_id, record.version) == (
        1,
        AT,
        AT + 3,
        "e-1",
        1,
    )
    assert [(change.base, change.why) for change in record.history] == [(1, decision.reason)]


@pytest.mark.parametrize(
    ("seen", "base"),
    [
        (group(present=0), 2),  # all three are missing; the limit is two
        (group(present=1), 2),
        (group(base=1, present=2), 2),
        (group(desired=2, present=0), 1),  # one place stays spot
    ],
)
def test_what_is_missing_is_asked_for_within_the_bounds(seen: GroupDescription, base: int) -> None:
    decision = decided(FAILED, seen)
    assert (decision.action, decision.on_demand_base) == (CapacityAction.RAISE, base)


@pytest.mark.parametrize("seen", [group(base=2), group(desired=1, present=0), group(base=3, present=2)])
def test_a_failure_at_the_bound_is_recorded_and_changes_no_base(seen: GroupDescription) -> None:
    decision = decided(FAILED, seen)
    assert (decision.action, decision.on_demand_base) == (CapacityAction.RECORD_SHORTAGE, None)
    assert decision.record is not None
    assert (decision.record.failed_at, decision.record.changed_at) == (AT, 0.0)


@pytest.mark.parametrize("present", [3, 5])
def test_a_failed_replacement_of_a_node_that_serves_buys_nothing(present: int) -> None:
    """A rebalance recommendation launches a replacement while the node is still there."""
    decision = decided(FAILED, group(present=present))
    assert (decision.action, decision.on_demand_base) == (CapacityAction.RECORD_FAILURE, None)
    assert decision.reason == "UnfulfillableCapacity, and no instance is missing"


def test_a_limit_below_the_deployed_base_disables_the_fallback() -> None:
    snapshot = CapacitySnapshot(group(base=2), None)
    assert decide_capacity(FAILED, snapshot, BaseLimits(2, 0), AT).action is CapacityAction.RECORD_SHORTAGE


@pytest.mark.parametrize(
    "message",
    [
        "Could not launch On-Demand Instances. InsufficientInstanceCapacity - We currently do not have sufficient",
        "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max spot instance count exceeded.",
        "Could not launch Spot Instances. InvalidParameterCombination - not eligible for Free Tier",
        "Could not launch Spot Instances. UnauthorizedOperation - You are not authorized",
        "Instance failed to complete user's Lifecycle Action: Lifecycle Action with token x was abandoned",
        "You have requested more vCPU capacity than your current vCPU limit of 0 allows",
        "an unknown message",
    ],
)
def test_a_failure_for_another_reason_than_spot_capacity_changes_nothing(message: str) -> None:
    decision = decided(replace(FAILED, message=message), group())
    assert (decision.action, decision.reason) == (CapacityAction.IGNORE, "not for lack of spot capacity")
    assert decision.record is None


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow"])
def test_each_code_for_a_lack_of_spot_capacity_is_recognized(code: str) -> None:
    assert spot_shortage_code(f"Could not launch Spot Instances. {code} - There is no Spot capacity available") == code


def test_a_launched_spot_instance_lowers_the_base_by_one() -> None:
    decision = decided(SUCCEEDED, group(base=2), replace(RAISED, base=2))
    assert (decision.action, decision.on_demand_base) == (CapacityAction.LOWER, 1)
    assert decision.record is not None
    assert (decision.record.base, decision.record.version) == (1, 4)


def test_a_raised_base_whose_record_expired_still_steps_back() -> None:
    decision = decided(SUCCEEDED, group(base=1), None)
    assert (decision.action, decision.on_demand_base) == (CapacityAction.LOWER, 0)


@pytest.mark.parametrize(
    ("seen", "record", "spot", "reason"),
    [
        (group(base=0), RAISED, True, "the base is not raised"),
        (group(base=1), RAISED, False, "not a spot launch"),
        (group(base=1), RAISED, None, "unknown instance"),
        (group(base=1), replace(RAISED, failed_at=AT), True, "older than the last failure"),
        (group(base=1), replace(RAISED, changed_at=AT + 1), True, "older than the last change"),
        (None, RAISED, True, "unknown group"),
    ],
)
def test_a_success_that_is_no_current_spot_launch_changes_nothing(
    seen: GroupDescription | None, record: CapacityRecord, spot: bool | None, reason: str
) -> None:
    decision = decided(SUCCEEDED, seen, record, spot)
    assert (decision.action, decision.reason) == (CapacityAction.IGNORE, reason)


def test_a_failure_before_the_last_change_is_ignored() -> None:
    decision = decided(FAILED, group(base=1), replace(RAISED, changed_at=AT + 0.5))
    assert (decision.action, decision.reason) == (CapacityAction.IGNORE, "older than the last change")


@pytest.mark.parametrize("event", [FAILED, SUCCEEDED])
def test_an_event_older_than_15_minutes_is_ignored(event: LaunchEvent) -> None:
    late = decided(event, group(base=1), None, now=AT + MAX_EVENT_AGE_S + 1)
    assert (late.action, late.reason) == (CapacityAction.IGNORE, "older than 15 minutes")


def test_a_retry_completes_the_decision_that_its_first_invocation_recorded() -> None:
    first = decided(FAILED, group())
    again = decided(FAILED, group(), first.record)  # the group was not set
    assert (again.action, again.on_demand_base, again.record) == (CapacityAction.RAISE, 1, None)
    hours_later = decided(FAILED, group(), first.record, now=AT + 7200)
    assert hours_later.on_demand_base == 1
    done = decided(FAILED, group(base=1), first.record)
    assert (done.action, done.reason) == (CapacityAction.IGNORE, "already done")
    lowered = decided(SUCCEEDED, group(base=2), replace(RAISED, base=2))
    half = decided(SUCCEEDED, group(base=2), lowered.record)
    assert (half.action, half.on_demand_base) == (CapacityAction.LOWER, 1)


def test_a_base_that_a_deployment_lowered_is_the_current_one() -> None:
    decision = decided(FAILED, group(base=0), replace(RAISED, base=2))
    assert decision.on_demand_base == 1


events = st.lists(
    st.tuples(st.sampled_from(["no spot", "spot", "on demand", "quota"]), st.floats(0, 600)), min_size=1, max_size=40
)


@given(events, st.integers(1, 6), st.integers(0, 3), st.integers(0, 6))
def test_the_base_stays_within_its_bounds_and_its_history_is_bounded(
    launches: list[tuple[str, float]], desired: int, base: int, limit: int
) -> None:
    """In any order: the times are not sorted."""
    bounds, seen, record = BaseLimits(base, limit), group(base, desired, 0), None
    now, successes = AT, 0
    for number, (kind, ago) in enumerate(launches):
        now += 60
        at = now - ago
        event: LaunchEvent = LaunchSucceeded(f"e-{number}", GROUP, at, NODE)
        if kind in ("no spot", "quota"):
            event = LaunchFailed(f"e-{number}", GROUP, at, NO_SPOT if kind == "no spot" else "MaxSpot...")
        decision = decide_capacity(event, CapacitySnapshot(seen, record, kind == "spot"), bounds, now)
        assert decision.reason
        if decision.record is not None:
            assert decision.record.version == (record.version if record else 0) + 1
            record = decision.record
        if decision.on_demand_base is not None:
            seen = replace(seen, on_demand_base=decision.on_demand_base)
        assert base <= seen.on_demand_base <= max(base, min(limit, desired - 1))
        assert record is None or len(record.history) <= MAX_HISTORY
    while seen.on_demand_base > base:  # spot is back: it steps all the way down
        now += 60
        successes += 1
        event = LaunchSucceeded(f"s-{successes}", GROUP, now, NODE)
        decision = decide_capacity(event, CapacitySnapshot(seen, record, True), bounds, now + 1)
        assert decision.action is CapacityAction.LOWER
        assert decision.on_demand_base is not None
        seen, record = replace(seen, on_demand_base=decision.on_demand_base), decision.record
    assert successes <= limit
