"""The CloudWatch metrics that alarms and the dashboard use."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from node_agent.contract import names

_MINUTE = Duration.minutes(1)
FIVE_MINUTES = Duration.minutes(5)


def group_metric(cluster: str, name: str) -> cloudwatch.Metric:
    """Return a metric that the Auto Scaling group publishes."""
    return cloudwatch.Metric(
        namespace="AWS/AutoScaling",
        metric_name=name,
        dimensions_map={"AutoScalingGroupName": names.auto_scaling_group_name(cluster)},
        statistic="Average",
        period=_MINUTE,
    )


def missing_nodes_metric(cluster: str) -> cloudwatch.MathExpression:
    """Return how many nodes fewer are in service than desired."""
    return cloudwatch.MathExpression(
        expression="desired - serving",
        using_metrics={
            "desired": group_metric(cluster, "GroupDesiredCapacity"),
            "serving": group_metric(cluster, "GroupInServiceInstances"),
        },
        label="missing nodes",
        period=_MINUTE,
    )


def cluster_metric(cluster: str, name: str, statistic: str = "Sum") -> cloudwatch.Metric:
    """Return a metric that the Lambdas or the nodes of this cluster publish."""
    return cloudwatch.Metric(
        namespace=names.METRICS_NAMESPACE,
        metric_name=name,
        dimensions_map=names.metric_dimensions(cluster),
        statistic=statistic,
        period=FIVE_MINUTES,
    )


def breaker_metric(cluster: str) -> cloudwatch.Metric:
    """Return how often launches were suspended, because nodes gave up."""
    return cluster_metric(cluster, "BreakerOpen")


def orphaned_streams_metric(cluster: str) -> cloudwatch.Metric:
    """Return how many streams stay orphaned: their node was lost, and no client came back."""
    return cluster_metric(cluster, "OrphanedStreams", "Maximum")
