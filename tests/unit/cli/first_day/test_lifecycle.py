"""A hook that a node completes differs from one that timed out by its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cli.core.first_day.lifecycle import Launch, StateSeen, judge_launches, judge_termination, launches_of, waited_s
from cli.core.first_day.report import Outcome
from node_agent.contract.drain_record import DrainRecord, DrainStep

A, B = "i-0123456789abcdef0", "i-0fedcba9876543210"
T0 = datetime(2026, 11, 30, 10, 0, tzinfo=UTC)
SERVING = {A: "InService", B: "InService"}


def test_launches_are_read_from_the_groups_activities() -> None:
    activities = [
        {"Description": f"Terminating EC2 instance: {B}", "StatusCode": "Successful", "StartTime": T0},
        {"Description": f"Launching a new EC2 instance: {B}", "StatusCode": "InProgress", "StartTime": T0},
        {
            "Description": f"Launching a new EC2 instance: {A}",
            "StatusCode": "Successful",
            "StartTime": T0,
            "EndTime": T0 + timedelta(seconds=410),
        },
        {},
    ]
    assert launches_of(activities) == (Launch(B, "InProgress", None), Launch(A, "Successful", 410.0))


@pytest.mark.parametrize(
    ("took", "states", "timeout_s", "outcome", "summary"),
    [
        ({A: 410.0, B: 395.0}, SERVING, 1860.0, Outcome.OK, "within 410 s"),
        ({A: 410.0}, SERVING, 1860.0, Outcome.OK, "1 launches"),
        ({A: 410.0, B: 1858.0}, SERVING, 1860.0, Outcome.FAILED, f"hook of {B} ended by its timeout"),
        ({A: 410.0}, {A: "Pending:Wait", B: "InService"}, 1860.0, Outcome.FAILED, "Pending:Wait"),
        ({}, SERVING, 1860.0, Outcome.NOT_RUN, "no record"),
        ({A: 410.0}, SERVING, None, Outcome.FAILED, "no launch hook"),
    ],
)
def test_a_launch_ends_when_the_node_serves(
    took: dict[str, float], states: dict[str, str], timeout_s: float | None, outcome: Outcome, summary: str
) -> None:
    launches = [Launch(each, "Successful", seconds) for each, seconds in took.items()]
    result = judge_launches([A, B], launches, states, timeout_s)
    assert result.outcome is outcome
    assert summary in result.summary


def drain(*steps: str) -> DrainRecord:
    return DrainRecord(A, 1, "termination-requested", 0.0, 0, tuple(DrainStep(step, 1.0) for step in steps))


def seen(*pairs: tuple[str, float]) -> list[StateSeen]:
    return [StateSeen(state, at) for state, at in pairs]


WHOLE = ("requested", "cordoned", "retired", "untagged")
DRAINED = seen(("InService", 0.0), ("Terminating:Wait", 2.0), ("Terminating:Proceed", 24.0), ("", 60.0))


def test_a_wait_is_measured_only_where_its_end_was_seen() -> None:
    assert waited_s(DRAINED, "Terminating:Wait") == 22.0
    assert waited_s(DRAINED[:2], "Terminating:Wait") is None
    assert waited_s(DRAINED, "Pending:Wait") is None


@pytest.mark.parametrize(
    ("states", "record", "timeout_s", "outcome", "summary"),
    [
        (DRAINED, drain(*WHOLE), 120.0, Outcome.OK, "after 22 s of 120 s"),
        (DRAINED, drain(*WHOLE), 25.0, Outcome.FAILED, "ended by its timeout"),
        (DRAINED, None, 120.0, Outcome.FAILED, "no record of its drain"),
        (DRAINED, drain("requested", "cordoned"), 120.0, Outcome.FAILED, "did not remove its tags"),
        (DRAINED[:1], drain(*WHOLE), 120.0, Outcome.FAILED, "not seen waiting"),
        (DRAINED, drain(*WHOLE), None, Outcome.FAILED, "no termination hook"),
    ],
)
def test_a_termination_ends_when_the_node_has_drained(
    states: list[StateSeen], record: DrainRecord | None, timeout_s: float | None, outcome: Outcome, summary: str
) -> None:
    result = judge_termination(states, record, timeout_s)
    assert result.outcome is outcome
    assert summary in result.summary
