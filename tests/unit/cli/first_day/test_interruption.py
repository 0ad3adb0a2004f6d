"""What the record of an interrupted node shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cli.core.first_day.interruption import NodeEnd, end_facts, judge_interruption
from cli.core.first_day.report import Outcome, failed, passed
from node_agent.contract.drain_record import DrainRecord, DrainStep
from node_agent.contract.table_schema import TimelineStep

T0 = 1_764_000_000.0
STEPS = (
    TimelineStep("ready", "agent", T0 - 900),
    TimelineStep("notice-seen", "imds", T0 + 3.0),
    TimelineStep("interruption-notice", "eventbridge", T0 + 5.5),
)
TIMELINE = {step.key: step for step in STEPS}
DRAIN = DrainRecord(
    "i-0a",
    1,
    "notice-seen",
    T0 + 123,
    0,
    (DrainStep("requested", T0 + 3.0), DrainStep("cordoned", T0 + 3.2), DrainStep("handed-off", T0 + 110, 2)),
)
END = NodeEnd(T0, TIMELINE, DRAIN, T0 + 140, T0 + 610)


def test_the_measures_are_seconds_since_the_request_and_the_notice() -> None:
    facts = end_facts(END)
    assert (facts["notice_seen_after_s"], facts["event_after_notice_s"], facts["cordon_after_notice_s"]) == (
        3,
        2.5,
        0.2,
    )
    assert (facts["handed_off"], facts["gone_after_s"], facts["replaced_after_s"]) == (2, 140, 610)
    assert facts["timeline"] == [
        "ready@agent +-900.0 s",
        "notice-seen@imds +3.0 s",
        "interruption-notice@eventbridge +5.5 s",
    ]
    assert end_facts(NodeEnd(T0, {}, None, None, None))["drain_steps"] == []


def without(key: str) -> dict[str, TimelineStep]:
    return {name: step for name, step in TIMELINE.items() if name != key}


LATE = TIMELINE | {"notice-seen@imds": TimelineStep("notice-seen", "imds", T0 + 140)}


@pytest.mark.parametrize(
    ("changes", "outcome", "summary"),
    [
        ({}, Outcome.OK, "2 of 3 streams moved; replaced after 10 minutes"),
        ({"timeline": without("notice-seen@imds")}, Outcome.FAILED, "did not record the notice"),
        ({"timeline": LATE}, Outcome.FAILED, "after its deadline"),
        ({"timeline": without("interruption-notice@eventbridge")}, Outcome.FAILED, "no Lambda recorded"),
        ({"gone_at": None, "whole_at": None}, Outcome.FAILED, "did not end"),
        ({"whole_at": None}, Outcome.FAILED, "not complete again"),
    ],
)
def test_each_part_of_an_interruption_has_to_be_seen(changes: dict[str, Any], outcome: Outcome, summary: str) -> None:
    result = judge_interruption(replace(END, **changes), passed("2 of 3 streams moved", streams=3))
    assert result.outcome is outcome
    assert summary in result.summary
    assert result.facts["streams"] == 3


def test_a_broken_stream_comes_first() -> None:
    result = judge_interruption(replace(END, whole_at=None), failed("1 of 3 streams broke", "report this", streams=3))
    assert (result.outcome, result.summary) == (Outcome.FAILED, "1 of 3 streams broke")
    assert result.facts["gone_after_s"] == 140
