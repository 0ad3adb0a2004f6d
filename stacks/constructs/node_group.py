"""The Auto Scaling group of the nodes, with its lifecycle hooks and update policy.

An instance is in service when its node has reported that it serves (the launch hook), and terminates when its node has
reported that it has drained (the termination hook). So a replacement or an update never ends a node for one that is
still loading its model.
"""

from __future__ import annotations

from aws_cdk import Annotations, Duration, Tags
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.tags import CLUSTER_TAG, ROLE_TAG, VERSION_TAG, WORKER_ROLE
from stacks.constructs.alarms import AlarmSpec, make_alarm
from stacks.constructs.metrics import breaker_metric
from stacks.constructs.network import Network
from stacks.rollout import DRAIN_S, WARMUP_S, max_healthy_percent
from stacks.settings import HOOK_MARGIN_S, FleetSettings


class NodeGroup(Construct):
    """The group (`group`). version: of the instances that it launches, which carry it as a tag."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        settings: FleetSettings,
        *,
        network: Network,
        template: ec2.LaunchTemplate,
        version: str,
    ) -> None:
        super().__init__(scope, construct_id)
        scaled = settings.is_autoscaled
        self.group = autoscaling.AutoScalingGroup(
            self,
            "Group",
            auto_scaling_group_name=names.auto_scaling_group_name(settings.cluster),
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            min_capacity=settings.min_capacity,
            max_capacity=settings.max_capacity,
            # Where the fleet scales automatically, a deployment does not change its size.
            desired_capacity=None if scaled else settings.nodes,
            capacity_rebalance=True,
            default_instance_warmup=Duration.seconds(WARMUP_S),
            group_metrics=[autoscaling.GroupMetrics.all()],
            mixed_instances_policy=_instances_policy(settings, template),
            update_policy=_update_policy(settings, self._rollback_alarm(settings)),
        )
        # The warning is about a deployment resetting the size to that of synkti.toml, which is intended.
        Annotations.of(self.group).acknowledge_warning("@aws-cdk/aws-autoscaling:desiredCapacitySet")
        self._add_hooks(settings)
        for key, value in ((CLUSTER_TAG, settings.cluster), (ROLE_TAG, WORKER_ROLE), (VERSION_TAG, version)):
            Tags.of(self.group).add(key, value, apply_to_launched_instances=True)
        if scaled:
            self._scale(settings)

    def _rollback_alarm(self, settings: FleetSettings) -> cloudwatch.Alarm:
        """Return the alarm that fails an update: the breaker found that the new version's nodes cannot serve.

        It is in ALARM only while the breaker opens, so that it does not fail the update that brings the remedy, too.
        """
        what = AlarmSpec("rollback", "an update is rolled back, because its nodes gave up")
        return make_alarm(self, "Rollback", settings, breaker_metric(settings.cluster), what)

    def _add_hooks(self, settings: FleetSettings) -> None:
        """Add the hooks to the group's own properties: separate resources are created after the first instances."""
        hooks = [
            {
                "LifecycleHookName": names.READY_HOOK,
                "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING",
                "DefaultResult": "CONTINUE" if settings.keep_failed_nodes else "ABANDON",
                "HeartbeatTimeout": settings.ready_within_s + HOOK_MARGIN_S,
            },
            {
                "LifecycleHookName": names.DRAINED_HOOK,
                "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
                "DefaultResult": "CONTINUE",
                "HeartbeatTimeout": DRAIN_S,
            },
        ]
        resource = self.group.node.default_child
        if not isinstance(resource, autoscaling.CfnAutoScalingGroup):
            raise AssertionError("the group's default child is no CfnAutoScalingGroup")
        resource.add_property_override("LifecycleHookSpecificationList", hooks)

    def _scale(self, settings: FleetSettings) -> None:
        self.group.scale_to_track_metric(
            "InFlight",
            metric=in_flight_metric(settings.cluster),
            target_value=settings.scale_target,
        )


def in_flight_metric(cluster: str) -> cloudwatch.Metric:
    """Return the metric of requests in flight per node: each node publishes its own once a minute."""
    return cloudwatch.Metric(
        namespace=names.METRICS_NAMESPACE,
        metric_name=names.IN_FLIGHT_METRIC,
        dimensions_map={"AutoScalingGroupName": names.auto_scaling_group_name(cluster)},
        statistic="Average",
        period=Duration.minutes(1),
    )


def _instances_policy(settings: FleetSettings, template: ec2.LaunchTemplate) -> autoscaling.MixedInstancesPolicy:
    kinds = [
        autoscaling.LaunchTemplateOverrides(instance_type=ec2.InstanceType(kind)) for kind in settings.instance_types
    ]
    return autoscaling.MixedInstancesPolicy(
        launch_template=template,
        launch_template_overrides=kinds,
        instances_distribution=autoscaling.InstancesDistribution(
            on_demand_base_capacity=settings.on_demand_base,
            on_demand_percentage_above_base_capacity=0,
            spot_allocation_strategy=autoscaling.SpotAllocationStrategy.PRICE_CAPACITY_OPTIMIZED,
        ),
    )


def _update_policy(settings: FleetSettings, rollback: cloudwatch.IAlarm) -> autoscaling.UpdatePolicy:
    """Return the policy by which CloudFormation replaces the instances of an older template, and waits for it.

    rollback: while it is in ALARM the instance refresh fails, and CloudFormation restores the earlier template.
    """
    return autoscaling.UpdatePolicy.instance_refresh(
        strategy=autoscaling.InstanceRefreshStrategy.ROLLING,
        min_healthy_percentage=settings.refresh_healthy_percent,
        # Room for new nodes that start before old ones end: a tenth of the fleet, at least one.
        max_healthy_percentage=max_healthy_percent(settings),
        skip_matching=True,
        alarms=[rollback],
    )
