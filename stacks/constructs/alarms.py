"""CloudWatch alarms and their notifications."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.settings import FleetSettings


class Alarms(Construct):
    """Creates alarms and collects them in `alarms` for the dashboard. Without `alarm_email` they notify no one."""

    def __init__(self, scope: Construct, construct_id: str, settings: FleetSettings) -> None:
        super().__init__(scope, construct_id)
        self.alarms: list[cloudwatch.Alarm] = []
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

    def alarm_when_positive(
        self,
        scope: Construct,
        construct_id: str,
        metric: cloudwatch.IMetric,
        meaning: str,
        *,
        periods: int = 1,
        of_periods: int | None = None,
    ) -> None:
        """Create an alarm for a metric above zero.

        meaning: completes the alarm's description; periods: in how many periods of the last `of_periods` it has to be
        above zero; None: in as many consecutive ones.
        """
        alarm = positive_alarm(scope, construct_id, metric, meaning, periods, of_periods or periods)
        if self._topic is not None:
            alarm.add_alarm_action(actions.SnsAction(self._topic))
        self.alarms.append(alarm)


def positive_alarm(
    scope: Construct, construct_id: str, metric: cloudwatch.IMetric, meaning: str, periods: int, of_periods: int
) -> cloudwatch.Alarm:
    """Return an alarm without actions; see Alarms.alarm_when_positive for its arguments."""
    return cloudwatch.Alarm(
        scope,
        construct_id,
        metric=metric,
        threshold=0,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluation_periods=of_periods,
        datapoints_to_alarm=periods,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        alarm_description=f"Synkti: {meaning}",
    )
