"""Which alarm is set off, and what its history and its subscriptions mean."""

from __future__ import annotations

from typing import Any

import pytest

from cli.core.first_day.alarm import Alarm, action_of, alarms_of, choose, judge_alarm, unconfirmed
from cli.core.first_day.report import Outcome, StepResult

TOPIC = "arn:aws:sns:us-east-1:123456789012:synkti-events-Topic"
DONE = f"Successfully executed action {TOPIC}"


def test_alarms_are_read_in_the_order_of_their_names() -> None:
    described: list[dict[str, Any]] = [
        {"AlarmName": "b", "StateValue": "OK", "AlarmActions": [TOPIC]},
        {"AlarmName": "a", "StateValue": "ALARM", "AlarmActions": []},
        {"AlarmName": "c"},
    ]
    assert alarms_of(described) == (Alarm("a", "ALARM", None), Alarm("b", "OK", TOPIC), Alarm("c", "", None))


def test_a_quiet_alarm_that_notifies_is_chosen() -> None:
    alarms = (Alarm("a", "OK", None), Alarm("b", "ALARM", TOPIC), Alarm("c", "INSUFFICIENT_DATA", TOPIC))
    assert choose(alarms) == alarms[2]


@pytest.mark.parametrize(
    ("alarms", "outcome", "summary"),
    [
        ((), Outcome.NOT_RUN, "no alarms"),
        ((Alarm("a", "OK", None),), Outcome.NOT_RUN, "no topic to notify"),
        ((Alarm("a", "ALARM", TOPIC),), Outcome.FAILED, "every alarm is in ALARM"),
    ],
)
def test_without_such_an_alarm_the_reason_is_reported(
    alarms: tuple[Alarm, ...], outcome: Outcome, summary: str
) -> None:
    result = choose(alarms)
    assert isinstance(result, StepResult)
    assert (result.outcome, summary in result.summary) == (outcome, True)


def test_an_address_has_to_be_confirmed() -> None:
    pending = {"SubscriptionArn": "PendingConfirmation", "Endpoint": "ops@example.com"}
    problem = unconfirmed([pending])
    assert problem is not None
    assert (problem.outcome, problem.facts) == (Outcome.FAILED, {"subscriptions": 1, "confirmed": 0})
    assert unconfirmed([pending, {"SubscriptionArn": f"{TOPIC}:1"}]) is None


@pytest.mark.parametrize(
    ("sentence", "arrived", "outcome"),
    [
        (DONE, True, Outcome.OK),
        (DONE, None, Outcome.BY_HAND),
        (DONE, False, Outcome.FAILED),
        (f"Failed to execute action {TOPIC}", None, Outcome.FAILED),
        (None, None, Outcome.FAILED),
    ],
)
def test_only_a_person_has_seen_the_mail(sentence: str | None, arrived: bool | None, outcome: Outcome) -> None:
    assert judge_alarm(sentence, 60.0, arrived).outcome is outcome


def test_the_embedded_aws_cannot_show_a_mail() -> None:
    assert judge_alarm(None, 2.0, None, embedded=True).outcome is Outcome.NOT_RUN


def test_the_newest_action_counts() -> None:
    assert action_of([{"HistorySummary": DONE}, {"HistorySummary": "older"}]) == DONE
    assert action_of([]) is None
