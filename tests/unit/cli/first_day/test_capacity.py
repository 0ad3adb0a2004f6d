"""The on-demand base: when the drill may raise it, with which event, and what its return shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.core.first_day import capacity
from cli.core.first_day.capacity import BaseDrill, GroupCapacity, event_time, gap, judge_base, refusal
from cli.core.first_day.report import Outcome
from lambdas.core.fallback_return import QUIET_S, STEP_S, decide_return
from lambdas.core.on_demand_fallback import (
    BaseLimits,
    CapacityAction,
    CapacitySnapshot,
    GroupDescription,
    decide_capacity,
)
from node_agent.contract.capacity import CapacityRecord, LaunchFailed, ScheduledCheck

WHOLE = GroupCapacity(desired=3, maximum=6, present=3, base=0, launches_suspended=False)
NOW = 1_764_000_000.0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"launches_suspended": True}, "suspended"),
        ({"desired": 0}, "stopped"),
        ({"maximum": 3}, "maximum size, 3"),
        ({"maximum": 3, "present": 2}, ""),
    ],
)
def test_a_group_that_must_not_be_touched_is_left_alone(changes: dict[str, Any], why: str) -> None:
    found = refusal(replace(WHOLE, **changes))
    assert why in found
    assert bool(found) == bool(why)


def test_one_instance_has_to_be_missing() -> None:
    assert gap(WHOLE) == 1
    assert gap(replace(WHOLE, present=2)) == 0


@given(changed_ago_s=st.floats(0, 4_000), delay_s=st.floats(0, 55), limit=st.integers(1, 3), repeats=st.integers(0, 3))
def test_the_lambdas_raise_the_base_at_the_drills_event_and_lower_it_again(
    changed_ago_s: float, delay_s: float, limit: int, repeats: int
) -> None:
    """The drill's event meets the deployed rules of the Lambdas: with the time, the message and the gap it has."""
    held = CapacityRecord("synkti-fleet", 0, 0.0, NOW - changed_ago_s, "earlier", 3, 0) if changed_ago_s > 60 else None
    group = GroupDescription("synkti-fleet", 0, WHOLE.desired + gap(WHOLE), WHOLE.present)
    event = LaunchFailed("drill", "synkti-fleet", event_time(NOW, held), capacity.SHORTAGE)
    limits = BaseLimits(0, limit)
    raised = decide_capacity(event, CapacitySnapshot(group, held), limits, NOW + delay_s)
    assert (raised.action, raised.on_demand_base) == (CapacityAction.RAISE, 1)
    record, later = raised.record, replace(group, desired=3, on_demand_base=1)
    assert record is not None
    checks = [NOW + delay_s + 300.0 * n for n in range(int(capacity.RETURN_WITHIN_S // 300) + 1)]
    returned = [
        at
        for at in checks
        if decide_return(ScheduledCheck(f"c{at}", at), later, record, limits, at).on_demand_base == 0
    ]
    assert returned
    due = max(event.at + QUIET_S, NOW + delay_s + STEP_S)
    assert due <= returned[0] <= due + 300.0, "at the first check that is due"
    assert held is not None or due < NOW + QUIET_S, "sooner than half an hour, because the event is old"


BACK = BaseDrill(WHOLE, NOW, 1, NOW + 4, applied=True, returned_at=NOW + 1_300, reasons=("1: x", "0: y"))


@pytest.mark.parametrize(
    ("changes", "embedded", "outcome", "summary"),
    [
        ({}, False, Outcome.OK, "rose to 1 and returned by itself after 22 minutes"),
        ({"returned_at": None}, False, Outcome.FAILED, "did not return"),
        ({"applied": False, "returned_at": None}, False, Outcome.FAILED, "the group has the base of before"),
        (
            {"raised_to": None, "raised_at": None, "applied": False, "returned_at": None},
            False,
            Outcome.FAILED,
            "no Lambda",
        ),
        ({"applied": False, "returned_at": None}, True, Outcome.NOT_RUN, "keeps no base"),
        ({"raised_to": None, "raised_at": None, "shortage_recorded": True}, False, Outcome.NOT_RUN, "at its limit"),
    ],
)
def test_the_base_has_to_return_by_itself(
    changes: dict[str, Any], embedded: bool, outcome: Outcome, summary: str
) -> None:
    result = judge_base(replace(BACK, **changes), embedded=embedded)
    assert result.outcome is outcome
    assert summary in result.summary
    assert result.facts["base_before"] == 0
