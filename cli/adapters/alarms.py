"""The cluster's CloudWatch alarms, their topic's subscriptions, and what CloudWatch did at their changes."""

from __future__ import annotations

from typing import Any

from cli.core.first_day.alarm import Alarm, alarms_of

_KIND = "AWS::CloudWatch::Alarm"
_REASON = "set by synkti drill first-day; it is set back at once"


class Alarms:
    """Reads and sets alarms. Methods raise BotoCoreError and ClientError.

    cloudwatch, sns, cloudformation: boto3's clients.
    """

    def __init__(self, cloudwatch: Any, sns: Any, cloudformation: Any) -> None:
        self._cloudwatch = cloudwatch
        self._sns = sns
        self._cloudformation = cloudformation

    def of_stack(self, stack: str) -> tuple[Alarm, ...]:
        """Return the alarms of a stack."""
        pages = self._cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
        every = [each for page in pages for each in page["StackResourceSummaries"]]
        names = [each["PhysicalResourceId"] for each in every if each["ResourceType"] == _KIND]
        if not names:
            return ()
        return alarms_of(self._cloudwatch.describe_alarms(AlarmNames=names[:100])["MetricAlarms"])

    def subscriptions(self, topic: str) -> list[dict[str, Any]]:
        """Return the subscriptions of a topic: its first hundred."""
        return list(self._sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"])

    def set_state(self, alarm: str, state: str) -> None:
        """Set an alarm's state, as if its metric had it; CloudWatch evaluates the metric again within a minute."""
        self._cloudwatch.set_alarm_state(AlarmName=alarm, StateValue=state, StateReason=_REASON)

    def state(self, alarm: str) -> str:
        """Return an alarm's present state."""
        (found,) = self._cloudwatch.describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
        return str(found["StateValue"])

    def actions(self, alarm: str, since: Any) -> list[dict[str, Any]]:
        """Return what CloudWatch recorded on the alarm's actions since then (a datetime), the newest first."""
        answer = self._cloudwatch.describe_alarm_history(
            AlarmName=alarm, HistoryItemType="Action", StartDate=since, ScanBy="TimestampDescending", MaxRecords=10
        )
        return list(answer["AlarmHistoryItems"])
