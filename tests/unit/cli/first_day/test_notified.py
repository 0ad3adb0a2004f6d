"""An alarm is set off and set back, whatever follows: recorded responses, checked by botocore."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.core.clusters import Stack
from cli.core.first_day.report import Outcome
from cli.first_day.notified import alarm_step
from cli.first_day.run import Step, run_steps
from cli.fleet import Fleet
from tests.unit.cli.first_day.recorded import ANY, recorded
from tests.unit.cli.first_day.world import World, world

NAME, TOPIC = "synkti-events-NoSpot", "arn:aws:sns:us-east-1:123456789012:t"
T0 = datetime(2026, 11, 30, tzinfo=UTC)
OK = {"AlarmName": NAME, "StateValue": "OK", "AlarmActions": [TOPIC]}
ITEM = {"AlarmName": NAME, "HistorySummary": f"Successfully executed action {TOPIC}"}
RESOURCE = {
    "ResourceType": "AWS::CloudWatch::Alarm",
    "LogicalResourceId": "NoSpot",
    "PhysicalResourceId": NAME,
    "LastUpdatedTimestamp": T0,
    "ResourceStatus": "CREATE_COMPLETE",
}


def described(state: str) -> Any:
    return ("describe_alarms", {"AlarmNames": [NAME]}, {"MetricAlarms": [OK | {"StateValue": state}]})


def changed(state: str) -> Any:
    return ("set_alarm_state", {"AlarmName": NAME, "StateValue": state, "StateReason": ANY}, {})


def history(*items: Any) -> Any:
    return ("describe_alarm_history", None, {"AlarmHistoryItems": list(items)})


def deployed(stack: ExitStack, calls: list[Any], confirmed: bool = True) -> World:
    arn = f"{TOPIC}:1" if confirmed else "PendingConfirmation"
    listed = {"Subscriptions": [{"SubscriptionArn": arn, "TopicArn": TOPIC, "Protocol": "email"}]}
    clients = {
        "cloudformation": stack.enter_context(
            recorded("cloudformation", ("list_stack_resources", None, {"StackResourceSummaries": [RESOURCE]}))
        ),
        "cloudwatch": stack.enter_context(recorded("cloudwatch", *calls)),
        "sns": stack.enter_context(recorded("sns", ("list_subscriptions_by_topic", {"TopicArn": TOPIC}, listed))),
    }
    made = world(clients)
    events = Stack("synkti-events", "CREATE_COMPLETE", "synkti", {}, 0.0)
    made.day.fleet = Fleet(made.day.fleet.account, "synkti", (events,))
    return made


@pytest.mark.parametrize(
    ("items", "outcome", "count"),
    [([ITEM], Outcome.BY_HAND, 1), ([ITEM | {"HistorySummary": "Failed to execute action"}], Outcome.FAILED, 1)],
)
def test_an_alarm_is_set_and_set_back(items: list[Any], outcome: Outcome, count: int) -> None:
    calls = [described("OK"), changed("ALARM"), history(), history(*items), described("ALARM"), changed("OK")]
    with ExitStack() as stack:
        made = deployed(stack, calls)
        (record,), _ = run_steps(made.day, [Step("alarm", "An alarm", alarm_step)])
    assert record.result.outcome is outcome
    assert len(record.undone) == count


def test_an_alarm_that_cloudwatch_has_evaluated_again_is_left_alone() -> None:
    with ExitStack() as stack:
        made = deployed(stack, [described("OK"), changed("ALARM"), history(ITEM), described("OK")])
        (record,), _ = run_steps(made.day, [Step("alarm", "An alarm", alarm_step)])
    assert (record.undone, record.left) == ((), ())


def test_the_action_is_waited_for_a_bounded_time() -> None:
    calls = [described("OK"), changed("ALARM"), *[history()] * 31, described("OK")]
    with ExitStack() as stack:
        made = deployed(stack, calls)
        (record,), _ = run_steps(made.day, [Step("alarm", "An alarm", alarm_step)])
    assert (record.result.outcome, made.clock.at) == (Outcome.FAILED, 60.0)


def test_ctrl_c_after_the_change_sets_the_alarm_back() -> None:
    with ExitStack() as stack:
        made = deployed(stack, [described("OK"), changed("ALARM"), history(), described("ALARM"), changed("OK")])

        def ctrl_c(seconds: float) -> None:
            raise KeyboardInterrupt

        made.day.clock = type(made.day.clock)(made.day.clock.now, ctrl_c)
        (record,), interrupted = run_steps(made.day, [Step("alarm", "An alarm", alarm_step)])
    assert interrupted
    assert len(record.undone) == 1


def test_an_unconfirmed_address_sets_off_nothing() -> None:
    with ExitStack() as stack:
        made = deployed(stack, [described("OK")], confirmed=False)
        (record,), _ = run_steps(made.day, [Step("alarm", "An alarm", alarm_step)])
    assert (record.result.outcome, record.undone) == (Outcome.FAILED, ())
    assert "Subscription Confirmation" in record.result.advice
