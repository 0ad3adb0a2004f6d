"""CloudWatch alarms and their notifications."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.settings import FleetSettings

PAGE = "docs/alarms.md"


@dataclass(frozen=True)
class AlarmSpec:
    """When an alarm fires, and what it is about.

    name: after the cluster's; meaning: completes the description.
    section: of docs/alarms.md; "": the one with the alarm's name.
    above: the threshold.
    periods: in how many periods of the last `of_periods` the metric has to be above it; 0: in as many consecutive ones.
    """

    name: str
    meaning: str
    section: str = ""
    above: float = 0
    periods: int = 1
    of_periods: int = 0


class Alarms(Construct):
    """Creates alarms and collects them in `alarms` for the dashboard. Without `alarm_email` they notify no one."""

    def __init__(self, scope: Construct, construct_id: str, settings: FleetSettings) -> None:
        super().__init__(scope, construct_id)
        self.alarms: list[cloudwatch.Alarm] = []
        self._settings = settings
        self._topic = self._make_topic(settings) if settings.alarm_email else None

    def _make_topic(self, settings: FleetSettings) -> sns.Topic:
        topic = sns.Topic(self, "Topic", display_name=f"Synkti {settings.cluster}", enforce_ssl=True)
        topic.add_subscription(subscriptions.EmailSubscription(settings.alarm_email))
        # A topic's policy, here the denial of requests without TLS, replaces the default one that admits its account.
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsPublish",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Stack.of(self).account}},
            )
        )
        return topic

    def add(self, scope: Construct, construct_id: str, metric: cloudwatch.IMetric, what: AlarmSpec) -> None:
        """Create an alarm that notifies."""
        alarm = make_alarm(scope, construct_id, self._settings, metric, what)
        if self._topic is not None:
            alarm.add_alarm_action(actions.SnsAction(self._topic))
        self.alarms.append(alarm)


def make_alarm(
    scope: Construct, construct_id: str, settings: FleetSettings, metric: cloudwatch.IMetric, what: AlarmSpec
) -> cloudwatch.Alarm:
    """Create an alarm without actions, by the name that docs/alarms.md has."""
    return cloudwatch.Alarm(
        scope,
        construct_id,
        alarm_name=f"{settings.cluster}-{what.name}",
        metric=metric,
        threshold=what.above,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluation_periods=what.of_periods or what.periods,
        datapoints_to_alarm=what.periods,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        alarm_description=f"Synkti: {what.meaning}. What to do: {_page(settings)}#{what.section or what.name}",
    )


def _page(settings: FleetSettings) -> str:
    """Return the address of the page about alarms: in the repository that deploys, where one does."""
    if not settings.github_repository:
        return PAGE
    return f"https://github.com/{settings.github_repository}/blob/{settings.github_branch}/{PAGE}"
