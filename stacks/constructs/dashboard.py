"""The CloudWatch dashboard: size and load of the fleet, EC2's events, and the Lambdas' errors."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stacks.constructs.metrics import FIVE_MINUTES, group_metric, lambda_metric, orphaned_streams_metric
from stacks.constructs.node_group import in_flight_metric
from stacks.settings import FleetSettings


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
                left=[
                    lambda_metric(cluster, "EventCreate"),
                    lambda_metric(cluster, "EventAdvance"),
                    lambda_metric(cluster, "EventNote"),
                ],
            ),
            cloudwatch.GraphWidget(
                title="On-demand instances for want of spot",
                left=[lambda_metric(cluster, "OnDemandBase", "Maximum")],
                right=[lambda_metric(cluster, "CapacityRaise"), lambda_metric(cluster, "CapacityLower")],
            ),
            cloudwatch.GraphWidget(
                title="Nodes that gave up",
                left=[lambda_metric(cluster, "BreakerCount"), lambda_metric(cluster, "BreakerOpen")],
            ),
            cloudwatch.GraphWidget(
                title="Streams of lost nodes",
                left=[lambda_metric(cluster, "StreamsOrphaned"), orphaned_streams_metric(cluster)],
            ),
        )
        board.add_widgets(
            cloudwatch.GraphWidget(
                title="Lambdas: errors",
                left=[function.metric_errors(period=FIVE_MINUTES) for function in functions],
                width=12,
            ),
            cloudwatch.GraphWidget(
                title="Lambdas: how long",
                left=[function.metric_duration(period=FIVE_MINUTES, statistic="p99") for function in functions],
                width=12,
            ),
        )
