"""The CloudWatch dashboard: size and load of the fleet, EC2's events, and the Lambdas' errors."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from node_agent.contract import names
from stacks.constructs.node_group import in_flight_metric
from stacks.settings import FleetSettings

_MINUTE = Duration.minutes(1)
_FIVE_MINUTES = Duration.minutes(5)


def group_metric(cluster: str, name: str) -> cloudwatch.Metric:
    """Return a metric that the Auto Scaling group publishes."""
    return cloudwatch.Metric(
        namespace="AWS/AutoScaling",
        metric_name=name,
        dimensions_map={"AutoScalingGroupName": names.auto_scaling_group_name(cluster)},
        statistic="Average",
        period=_MINUTE,
    )


def lambda_metric(name: str, statistic: str = "Sum") -> cloudwatch.Metric:
    """Return a metric that the Lambdas publish."""
    return cloudwatch.Metric(
        namespace=names.METRICS_NAMESPACE,
        metric_name=name,
        dimensions_map={"service": "synkti"},
        statistic=statistic,
        period=_FIVE_MINUTES,
    )


class Dashboard(Construct):
    """The dashboard. functions: the Lambdas; alarms: all alarms."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        functions: Sequence[lambda_.IFunction],
        alarms: Sequence[cloudwatch.IAlarm],
    ) -> None:
        super().__init__(scope, construct_id)
        cluster = settings.cluster
        board = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=f"{cluster}-fleet")
        board.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=list(alarms), width=24, height=3))
        board.add_widgets(
            cloudwatch.GraphWidget(
                title="Nodes",
                left=[
                    group_metric(cluster, name)
                    for name in ("GroupDesiredCapacity", "GroupInServiceInstances", "GroupPendingInstances")
                ],
            ),
            cloudwatch.GraphWidget(title="Requests in flight at a node", left=[in_flight_metric(cluster)]),
            cloudwatch.GraphWidget(
                title="What EC2 did",
                left=[lambda_metric("EventCreate"), lambda_metric("EventAdvance"), lambda_metric("EventNote")],
            ),
            cloudwatch.GraphWidget(
                title="On-demand instances for want of spot",
                left=[lambda_metric("OnDemandBase", "Maximum")],
                right=[lambda_metric("CapacityRaise"), lambda_metric("CapacityLower")],
            ),
        )
        board.add_widgets(
            cloudwatch.GraphWidget(
                title="Lambdas: errors",
                left=[function.metric_errors(period=_FIVE_MINUTES) for function in functions],
                width=12,
            ),
            cloudwatch.GraphWidget(
                title="Lambdas: how long",
                left=[function.metric_duration(period=_FIVE_MINUTES, statistic="p99") for function in functions],
                width=12,
            ),
        )
