"""A Lambda that EventBridge invokes for some kinds of events or by schedule, with its dead-letter queue and alarms.

EventBridge retries for up to two hours (an older interruption is of no use), then the queue stores the event. The
alarms watch the queue and the function's errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from node_agent.contract import names
from stacks.constructs.alarms import Alarms, AlarmSpec
from stacks.constructs.handler_function import handler_function
from stacks.constructs.lambda_package import Code
from stacks.settings import FleetSettings

RETRY_HOURS = 2
RETRY_ATTEMPTS = 20


@dataclass(frozen=True)
class HandlerSpec:
    """The events, environment and permissions of one handler."""

    handler: str
    """The module's name in lambdas/handlers."""

    environment: Mapping[str, str]
    permissions: Sequence[iam.PolicyStatement]
    sources: Sequence[str] = ()
    """The sources of its events."""

    detail_types: Sequence[str] = ()
    detail: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Values that the events' details have to match."""

    every_minutes: int = 0
    """The interval of its schedule; 0: none, it has events."""

    memory_mib: int = 256
    """Lambda gives CPU in proportion to it."""


class EventFunction(Construct):
    """The Lambda (`function`) and its dead-letter queue (`queue`)."""

    def __init__(
        self, scope: Construct, task: HandlerSpec, settings: FleetSettings, code: Code, alarms: Alarms
    ) -> None:
        super().__init__(scope, task.handler)
        self.queue = sqs.Queue(
            self,
            "DeadLetters",
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            retention_period=Duration.days(14),
        )
        self.function = handler_function(
            self,
            settings,
            task.handler,
            code,
            environment=task.environment,
            permissions=task.permissions,
            timeout_s=20,
            memory_mib=task.memory_mib,
            retry_attempts=2,
            dead_letter_queue=self.queue,
        )
        events.Rule(
            self,
            "Rule",
            **_trigger(task, settings),
            targets=[
                targets.LambdaFunction(
                    self.function,
                    dead_letter_queue=self.queue,
                    max_event_age=Duration.hours(RETRY_HOURS),
                    retry_attempts=RETRY_ATTEMPTS,
                )
            ],
        )
        period = Duration.minutes(5)
        name = task.handler.replace("_", "-")
        fails = AlarmSpec(f"{name}-fails", f"the Lambda {task.handler} fails", "a-lambda-fails")
        alarms.add(self, "Errors", self.function.metric_errors(period=period), fails)
        left = AlarmSpec(f"{name}-dead-letters", f"events that {task.handler} could not handle", "dead-letters")
        letters = self.queue.metric_approximate_number_of_messages_visible(period=period)
        alarms.add(self, "Letters", letters, left)


def _trigger(task: HandlerSpec, settings: FleetSettings) -> dict[str, Any]:
    """Return the rule's properties that select its events, or its schedule."""
    if task.every_minutes:
        return {
            "description": f"every {task.every_minutes} minutes -> {task.handler}",
            "schedule": events.Schedule.rate(Duration.minutes(task.every_minutes)),
        }
    return {
        "description": f"{', '.join(task.detail_types)} -> {task.handler}",
        "event_pattern": events.EventPattern(
            source=[*task.sources, *([names.DRILL_EVENT_SOURCE] if settings.drills else [])],
            detail_type=list(task.detail_types),
            detail={name: list(values) for name, values in task.detail.items()} or None,
        ),
    }
