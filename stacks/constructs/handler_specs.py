"""Define for each Lambda the events that it handles, its environment, and its permissions."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Stack
from aws_cdk import aws_iam as iam

from node_agent.contract import environment as env
from node_agent.contract import names
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT, STATE_CHANGE_EVENT, TERMINAL_STATES
from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT
from node_agent.contract.launch_breaker import GAVE_UP_EVENT
from node_agent.contract.ownership import STATUS_INDEX
from node_agent.contract.tags import CLUSTER_TAG, STATE_TAGS
from stacks.constructs.event_function import HandlerSpec
from stacks.constructs.node_role import group_arn
from stacks.settings import FleetSettings
from stacks.state_stack import StateStack

NODE_EVENTS = {
    "node_interrupted": INTERRUPTION_EVENT,
    "node_rebalance_recommended": REBALANCE_EVENT,
    "node_state_changed": STATE_CHANGE_EVENT,
}
"""The event of EC2 that each module of lambdas/handlers handles."""

CHECK_MINUTES = 5
"""The interval of the scheduled check of the fleet."""


def handler_specs(stack: Stack, settings: FleetSettings, state: StateStack) -> Sequence[HandlerSpec]:
    """Return every Lambda's spec. stack: where they are deployed; their permissions name its account and region."""
    environment = {env.CLUSTER: settings.cluster, env.TABLE: state.table.table_name}
    nodes = [
        HandlerSpec(
            handler,
            environment,
            (_describe_policy(), _tag_policy(stack, settings), _records_policy(state)),
            [names.EC2_EVENT_SOURCE],
            [kind],
            # The events are of all instances in the account, each with several states.
            {"state": TERMINAL_STATES} if kind == STATE_CHANGE_EVENT else {},
            # One of these events writes a record for each of up to 2,000 streams, within the function's timeout.
            memory_mib=1024 if kind == STATE_CHANGE_EVENT else 256,
        )
        for handler, kind in NODE_EVENTS.items()
    ]
    return [
        *nodes,
        _launch_spec(stack, settings, state),
        _breaker_spec(stack, settings, state),
        _check_spec(stack, settings, state),
    ]


def _launch_spec(stack: Stack, settings: FleetSettings, state: StateStack) -> HandlerSpec:
    return HandlerSpec(
        handler="launch_finished",
        sources=[names.AUTO_SCALING_EVENT_SOURCE],
        detail_types=[LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT],
        detail={"AutoScalingGroupName": [names.auto_scaling_group_name(settings.cluster)]},
        environment=_base_environment(settings, state),
        permissions=(_describe_policy(), _records_policy(state), *_base_policies(stack, settings)),
    )


def _breaker_spec(stack: Stack, settings: FleetSettings, state: StateStack) -> HandlerSpec:
    return HandlerSpec(
        handler="node_gave_up",
        sources=[names.NODE_EVENT_SOURCE, names.AUTO_SCALING_EVENT_SOURCE],
        detail_types=[GAVE_UP_EVENT, LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT],
        detail={"AutoScalingGroupName": [names.auto_scaling_group_name(settings.cluster)]},
        environment=_base_environment(settings, state),
        permissions=(
            _describe_policy(),
            _records_policy(state),
            _see_group(),
            _launch_policy(stack, settings, "Suspend", "Resume"),
        ),
    )


def _check_spec(stack: Stack, settings: FleetSettings, state: StateStack) -> HandlerSpec:
    return HandlerSpec(
        handler="fleet_checked",
        every_minutes=CHECK_MINUTES,
        environment=_base_environment(settings, state),
        permissions=(
            _records_policy(state),
            _index_policy(state),
            *_base_policies(stack, settings),
            _launch_policy(stack, settings, "Resume"),
        ),
    )


def _base_environment(settings: FleetSettings, state: StateStack) -> dict[str, str]:
    return {
        env.CLUSTER: settings.cluster,
        env.TABLE: state.table.table_name,
        env.GROUP: names.auto_scaling_group_name(settings.cluster),
        env.ON_DEMAND_BASE: str(settings.on_demand_base),
        env.ON_DEMAND_LIMIT: str(settings.on_demand_limit),
    }


def _base_policies(stack: Stack, settings: FleetSettings) -> tuple[iam.PolicyStatement, ...]:
    return (
        _see_group(),
        iam.PolicyStatement(
            sid="SetBase",
            actions=["autoscaling:UpdateAutoScalingGroup"],
            resources=[group_arn(stack, settings.cluster)],
            # These functions must not change the group's size.
            conditions={"Null": {"autoscaling:MinSize": "true", "autoscaling:MaxSize": "true"}},
        ),
    )


def _see_group() -> iam.PolicyStatement:
    """Like DescribeInstances the action has no resource-level permissions, and only reads."""
    return iam.PolicyStatement(sid="SeeGroup", actions=["autoscaling:DescribeAutoScalingGroups"], resources=["*"])


def _launch_policy(stack: Stack, settings: FleetSettings, *verbs: str) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="SetLaunches",
        actions=[f"autoscaling:{verb}Processes" for verb in verbs],
        resources=[group_arn(stack, settings.cluster)],
    )


def _describe_policy() -> iam.PolicyStatement:
    return iam.PolicyStatement(sid="FindInstance", actions=["ec2:DescribeInstances"], resources=["*"])


def _tag_policy(stack: Stack, settings: FleetSettings) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="TagNodes",
        actions=["ec2:CreateTags"],
        resources=[stack.format_arn(service="ec2", resource="instance", resource_name="*")],
        conditions={
            "StringEquals": {f"ec2:ResourceTag/{CLUSTER_TAG}": settings.cluster},
            "ForAllValues:StringEquals": {"aws:TagKeys": [CLUSTER_TAG, *STATE_TAGS]},
            "Null": {"aws:TagKeys": "false"},  # ForAllValues is true of no keys, too
        },
    )


def _records_policy(state: StateStack) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="Records",
        # DeleteItem: Powertools deletes the row of a call that failed, so that its retry does not count as a repeat.
        actions=["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"],
        resources=[state.table.table_arn],
    )


def _index_policy(state: StateStack) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="CountOrphans",
        actions=["dynamodb:Query"],
        resources=[f"{state.table.table_arn}/index/{STATUS_INDEX}"],
    )
