"""Decide whether an alarm reaches its mailbox: what CloudWatch and SNS report, and what a person has seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.core.first_day.report import Outcome, StepResult, failed, not_run, passed

_PENDING = "PendingConfirmation"
_EXECUTED = "successfully executed"
STATES = ("OK", "INSUFFICIENT_DATA")
"""The states of an alarm that the drill may use: one that is in ALARM is needed as it is."""


@dataclass(frozen=True)
class Alarm:
    """A CloudWatch alarm. topic: the ARN of the SNS topic that it notifies; None where it notifies none."""

    name: str
    state: str
    topic: str | None


def alarms_of(described: Iterable[Mapping[str, Any]]) -> tuple[Alarm, ...]:
    """Return the alarms of DescribeAlarms, in the order of their names."""
    found = []
    for each in described:
        topics = [str(action) for action in each.get("AlarmActions", ()) if ":sns:" in str(action)]
        found.append(Alarm(str(each["AlarmName"]), str(each.get("StateValue", "")), topics[0] if topics else None))
    return tuple(sorted(found, key=lambda alarm: alarm.name))


def choose(alarms: Sequence[Alarm]) -> Alarm | StepResult:
    """Return the alarm to set off, or why there is none."""
    if not alarms:
        return not_run("the cluster has no alarms", "deploy the events stack: synkti bootstrap")
    with_topic = [alarm for alarm in alarms if alarm.topic is not None]
    if not with_topic:
        return not_run(
            "alarms have no topic to notify", "set alarm_email in synkti.toml, deploy, and confirm AWS's mail"
        )
    quiet = [alarm for alarm in with_topic if alarm.state in STATES]
    return quiet[0] if quiet else failed("every alarm is in ALARM", "look at them in CloudWatch first")


def unconfirmed(subscriptions: Sequence[Mapping[str, Any]]) -> StepResult | None:
    """Return the failure where no address has confirmed, else None. subscriptions: of the topic, as SNS lists them."""
    confirmed = [each for each in subscriptions if each.get("SubscriptionArn") != _PENDING]
    facts = {"subscriptions": len(subscriptions), "confirmed": len(confirmed)}
    if confirmed:
        return None
    advice = "open AWS's mail 'Subscription Confirmation' (also in the spam folder) and follow its link"
    return failed("no address has confirmed that it wants the alarms: no mail is sent", advice, **facts)


def action_of(history: Iterable[Mapping[str, Any]]) -> str | None:
    """Return CloudWatch's sentence on the newest action of an alarm; None where there is none yet."""
    return next((str(each.get("HistorySummary", "")) for each in history), None)


def judge_alarm(sentence: str | None, within_s: float, arrived: bool | None, *, embedded: bool = False) -> StepResult:
    """Decide from the alarm's history.

    Args:
        sentence: CloudWatch's, on the action; None where it has none.
        within_s: how long it was waited for, in seconds.
        arrived: whether a person has seen the mail; None where there was no person at a terminal.
        embedded: whether the alarm is of an embedded AWS, which records no actions and sends no mail.

    Returns:
        The step's result.
    """
    if embedded and sentence is None:
        return not_run("the alarm was set; the embedded AWS records no action of it, and sends no mail")
    if sentence is None:
        return failed(f"CloudWatch recorded no notification within {within_s:.0f} s", "look at the alarm's history")
    if _EXECUTED not in sentence.lower():
        return failed(f"CloudWatch could not notify: {sentence}", "the topic's policy has to admit CloudWatch")
    if arrived is None:
        advice = "look for a mail whose subject begins with ALARM; also in the spam folder"
        return StepResult(Outcome.BY_HAND, "CloudWatch has notified the topic, which sends the mail", advice)
    if not arrived:
        return failed("CloudWatch has notified the topic, and no mail has arrived", "spam folder; SNS's subscriptions")
    return passed("the alarm's mail has arrived")
