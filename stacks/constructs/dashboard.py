"""The CloudWatch dashboard: size and load of the fleet, EC2's events, and the Lambdas' errors."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from node_agent.contract import names
from stacks.constructs.metrics import FIVE_MINUTES, cluster_metric, group_metric, orphaned_streams_metric
from stacks.constructs.node_group import in_flight_metric
from stacks.settings import FleetSettings

PROMISE_COUNTS = (names.CONTINUED_METRIC, names.BROKEN_METRIC, names.UNREPLICATED_METRIC)


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
                    cluster_metric(cluster, "EventCreate"),
                    cluster_metric(cluster, "EventAdvance"),
                    cluster_metric(cluster, "EventNote"),
                ],
            ),
            cloudwatch.GraphWidget(
                title="On-demand instances for want of spot",
                left=[cluster_metric(cluster, "OnDemandBase", "Maximum")],
                right=[cluster_metric(cluster, "CapacityRaise"), cluster_metric(cluster, "CapacityLower")],
            ),
            cloudwatch.GraphWidget(
                title="Nodes that gave up",
                left=[cluster_metric(cluster, "BreakerCount"), cluster_metric(cluster, "BreakerOpen")],
            ),
            cloudwatch.GraphWidget(
                title="The promise: streams continued, broken, orphaned; events without a replica",
                left=[
                    *(cluster_metric(cluster, name) for name in PROMISE_COUNTS),
                    cluster_metric(cluster, "StreamsOrphaned"),
                    orphaned_streams_metric(cluster),
                ],
            ),
            cloudwatch.GraphWidget(
                title="The promise: pauses of continued streams",
                left=[cluster_metric(cluster, names.PAUSE_METRIC, statistic) for statistic in ("p50", "p99")],
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
