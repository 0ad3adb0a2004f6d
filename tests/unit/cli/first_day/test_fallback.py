"""The on-demand base is raised and followed, and the group is as before whatever happens."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cli.core.first_day.report import Outcome, StepRecord
from cli.first_day.fallback import fallback_step
from cli.first_day.run import Step, run_steps
from tests.unit.cli.first_day.world import MemoryGroup, World, world

STEP = Step("fallback", "The base", fallback_step)
BEFORE = MemoryGroup().held


class Events:
    """EventBridge, with drills on; `on_put` is what the deployed Lambda does."""

    def __init__(self, sources: list[str]) -> None:
        self.sources = sources
        self.sent: list[dict[str, Any]] = []
        self.on_put: Any = lambda: None

    def get_paginator(self, operation: str) -> Any:
        assert operation == "list_rules"
        return self

    def paginate(self, **_: str) -> list[dict[str, Any]]:
        return [{"Rules": [{"EventPattern": json.dumps({"source": self.sources})}]}]

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # boto3's name
        self.sent += Entries
        self.on_put()
        return {"Entries": [{"EventId": "e1"}]}


def fleet(*, drills: bool = True, embedded: bool = False) -> tuple[World, Events]:
    events = Events(["aws.autoscaling", "synkti.drill"] if drills else ["aws.autoscaling"])
    return world({"events": events}, embedded=embedded), events


def with_lambdas(made: World, events: Events, *, returns: bool = True, applies: bool = True) -> None:
    """The Lambdas raise the base 5 s after the event, and lower it after 20 minutes."""

    def raised() -> None:
        assert made.group.held.launches_suspended
        assert made.group.held.desired == 4
        made.records.raised("e1", 1)
        if applies:
            made.group.held = replace(made.group.held, base=1)

    def returned() -> None:
        made.group.held = replace(made.group.held, base=0)

    def put() -> None:
        made.clock.then[made.clock.at + 5] = raised
        if returns:
            made.clock.then[made.clock.at + 1_200] = returned

    events.on_put = put


def run(made: World) -> StepRecord:
    (record,), _ = run_steps(made.day, [STEP])
    return record


def test_the_base_rises_and_returns_by_itself() -> None:
    made, events = fleet()
    with_lambdas(made, events)
    record = run(made)
    assert record.result.outcome is Outcome.OK, record
    assert record.result.facts["raised_after_s"] == 6.0
    assert record.result.facts["reasons"] == ["1: no spot"]
    assert (record.undone, record.left) == ((), ()), "nothing was left to undo"
    assert made.group.held == BEFORE
    gap = made.group.calls[made.group.calls.index("suspend") : made.group.calls.index("resume") + 1]
    assert [each for each in gap if each != "capacity"] == ["suspend", "desired 4", "desired 3", "resume"]
    (sent,) = events.sent
    assert json.loads(sent["Detail"])["AutoScalingGroupName"] == "synkti-fleet"


def test_a_base_that_does_not_return_is_set_back() -> None:
    made, events = fleet()
    with_lambdas(made, events, returns=False)
    record = run(made)
    assert record.result.outcome is Outcome.FAILED
    assert record.undone == ("the on-demand base is 0 again",)
    assert made.group.held == BEFORE


def test_without_the_lambda_the_group_is_as_before() -> None:
    made, _ = fleet()
    record = run(made)
    assert (record.result.outcome, "no Lambda" in record.result.summary) == (Outcome.FAILED, True)
    assert made.group.held == BEFORE


def test_a_raise_that_the_group_does_not_get_is_a_failure() -> None:
    made, events = fleet()
    with_lambdas(made, events, applies=False, returns=False)
    assert "the group has the base of before" in run(made).result.summary
    assert made.group.held == BEFORE


def test_a_base_at_its_limit_cannot_rise() -> None:
    made, events = fleet()

    def at_limit() -> None:
        made.records.raised("other", 0)

    events.on_put = lambda: made.clock.then.update({made.clock.at + 5: at_limit})
    record = run(made)
    assert (record.result.outcome, record.result.summary) == (Outcome.NOT_RUN, "the base is at its limit")


@pytest.mark.parametrize("number", range(1, 14))
@pytest.mark.parametrize("returns", [True, False])
def test_ctrl_c_in_any_call_leaves_the_group_as_it_was(number: int, returns: bool) -> None:
    made, events = fleet()
    with_lambdas(made, events, returns=returns)
    made.group.interrupt_at = number
    record = run(made)
    made.group.interrupt_at = None
    assert record.result.summary == "stopped by Ctrl-C", made.group.calls
    assert made.group.held == BEFORE, (made.group.calls, record)


def test_drills_have_to_be_on() -> None:
    made, events = fleet(drills=False)
    record = run(made)
    assert (record.result.outcome, record.result.summary) == (Outcome.NOT_RUN, "drills are off")
    assert (events.sent, made.group.calls) == ([], ["capacity"])


def test_a_group_where_an_instance_is_missing_is_not_changed() -> None:
    made, events = fleet(embedded=True)
    made.group.held = replace(BEFORE, present=0)
    events.on_put = lambda: made.records.raised("e1", 2)
    record = run(made)
    assert (record.result.outcome, "keeps no base" in record.result.summary) == (Outcome.NOT_RUN, True)
    assert record.result.facts["base_raised_to"] == 2
    assert set(made.group.calls) == {"capacity"}
