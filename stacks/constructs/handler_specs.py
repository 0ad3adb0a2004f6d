"""The Lambdas' tasks: which events each is for, what it is told, and what it may do."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Stack
from aws_cdk import aws_iam as iam

from node_agent.contract import names
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT
from node_agent.contract.tags import CLUSTER_TAG, NODE_TAGS
from stacks.constructs.event_function import HandlerSpec
from stacks.constructs.node_role import group_arn
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

NODE_EVENTS = {
    "node_interrupted": INTERRUPTION_EVENT,
    "node_rebalance_recommended": REBALANCE_EVENT,
    "node_state_changed": STATE_CHANGE_EVENT,
}
"""The module in lambdas/handlers, and the event of EC2 that it is for."""


def handler_specs(stack: Stack, settings: FleetSettings, state: StateStack) -> Sequence[HandlerSpec]:
    """stack: the one that they are deployed in, whose account and region their permissions name."""
    told = {"SYNKTI_CLUSTER": settings.cluster, "SYNKTI_TABLE": state.table.table_name}
    nodes = [
        HandlerSpec(handler, names.EC2_EVENT_SOURCE, [kind], told, (_find(), _tag(stack, settings), _records(state)))
        for handler, kind in NODE_EVENTS.items()
    ]
    return [*nodes, _launches(stack, settings, state)]


def _launches(stack: Stack, settings: FleetSettings, state: StateStack) -> HandlerSpec:
    group = names.auto_scaling_group_name(settings.cluster)
    return HandlerSpec(
        handler="launch_finished",
        source=names.AUTO_SCALING_EVENT_SOURCE,
        detail_types=[LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT],
        detail={"AutoScalingGroupName": [group]},
        environment={
            "SYNKTI_TABLE": state.table.table_name,
            "SYNKTI_GROUP": group,
            "SYNKTI_ON_DEMAND_BASE": str(settings.on_demand_base),
            "SYNKTI_ON_DEMAND_LIMIT": str(settings.on_demand_limit),
        },
        permissions=(
            _find(),
            _records(state),
            # Like DescribeInstances: it knows no resources, and it only reads.
            iam.PolicyStatement(sid="SeeGroup", actions=["autoscaling:DescribeAutoScalingGroups"], resources=["*"]),
            iam.PolicyStatement(
                sid="SetBase",
                actions=["autoscaling:UpdateAutoScalingGroup"],
                resources=[group_arn(stack, settings.cluster)],
                # Its size is not this function's to change.
                conditions={"Null": {"autoscaling:MinSize": "true", "autoscaling:MaxSize": "true"}},
            ),
        ),
    )


def _find() -> iam.PolicyStatement:
    return iam.PolicyStatement(sid="FindInstance", actions=["ec2:DescribeInstances"], resources=["*"])


def _tag(stack: Stack, settings: FleetSettings) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="TagNodes",
        actions=["ec2:CreateTags"],
        resources=[stack.format_arn(service="ec2", resource="instance", resource_name="*")],
        conditions={
            "StringEquals": {f"ec2:ResourceTag/{CLUSTER_TAG}": settings.cluster},
            "ForAllValues:StringEquals": {"aws:TagKeys": [CLUSTER_TAG, *NODE_TAGS]},
        },
    )


def _records(state: StateStack) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="Records",
        # DeleteItem: the row of an idempotent call that failed, so that its retry is not taken for a repeat.
        actions=["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"],
        resources=[state.table.table_arn],
    )
