"""Handle Auto Scaling's launch events, and a schedule: read, decide, record, then set the group's on-demand base.

The record is written first, so that a retry of the same event completes whatever fails afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from aws_lambda_powertools.metrics import MetricUnit

from lambdas.adapters.autoscaling import AutoScalingGroups
from lambdas.adapters.dynamodb import DynamoCapacity
from lambdas.adapters.ec2 import Ec2Instances
from lambdas.adapters.ports import CapacityRecords, Groups, Instances
from lambdas.conditional_writes import until_written
from lambdas.core.fallback_return import decide_return
from lambdas.core.on_demand_fallback import (
    BaseLimits,
    CapacityAction,
    CapacityDecision,
    CapacitySnapshot,
    decide_capacity,
)
from lambdas.environment import CapacityEnvironment, capacity_from_environ
from lambdas.node_events import logger, metrics
from node_agent.contract.capacity import LaunchEvent, LaunchSucceeded, parse_check, parse_launch

_RECORD = "the capacity record of {group}"


@dataclass(frozen=True)
class LaunchDependencies:
    """What the handler uses. clock: unix seconds."""

    environment: CapacityEnvironment
    groups: Groups
    instances: Instances
    records: CapacityRecords
    clock: Callable[[], float]


def from_aws(clock: Callable[[], float]) -> LaunchDependencies:
    """Create the dependencies on AWS from this process's environment. Raises ConfigurationError."""
    environment = capacity_from_environ(os.environ)
    return LaunchDependencies(
        environment,
        AutoScalingGroups(boto3.client("autoscaling")),
        Ec2Instances(boto3.client("ec2")),
        DynamoCapacity(boto3.resource("dynamodb").Table(environment.table)),
        clock,
    )


def handle_launch_event(raw: Mapping[str, Any], dependencies: LaunchDependencies) -> dict[str, str]:
    """Parse one event and carry out its decision.

    Args:
        raw: the event, as EventBridge delivers it.
        dependencies: AWS, or fakes of it.

    Raises RecordChanged as `until_written`, ValueError for a malformed event, and botocore's errors.

    Returns:
        The action and its reason.
    """
    metrics.add_metric(name="EventReceived", unit=MetricUnit.Count, value=1)
    event = parse_launch(raw)
    if event is None:
        return _report(CapacityDecision(CapacityAction.IGNORE, "not a launch event"), raw)
    if event.group != dependencies.environment.group:
        return _report(CapacityDecision(CapacityAction.IGNORE, "another group"), raw)

    def attempt() -> CapacityDecision:
        decision = decide_capacity(event, _snapshot(event, dependencies), _limits(dependencies), dependencies.clock())
        return _carry_out(decision, dependencies)

    return _report(until_written(_RECORD.format(group=event.group), attempt), raw)


def handle_check(raw: Mapping[str, Any], dependencies: LaunchDependencies) -> dict[str, str]:
    """Parse one scheduled event and carry out its decision: a raised base falls again.

    Args:
        raw: the event, as EventBridge delivers it.
        dependencies: AWS, or fakes of it.

    Raises RecordChanged as `until_written`, ValueError for a malformed event, and botocore's errors.

    Returns:
        The action and its reason.
    """
    check = parse_check(raw)
    if check is None:
        return _report(CapacityDecision(CapacityAction.IGNORE, "not a scheduled event"), raw)
    name = dependencies.environment.group

    def attempt() -> CapacityDecision:
        group, record = dependencies.groups.find(name), dependencies.records.find(name)
        decision = decide_return(check, group, record, _limits(dependencies), dependencies.clock())
        _carry_out(decision, dependencies)
        if group is not None and decision.on_demand_base is None:
            metrics.add_metric(name="OnDemandBase", unit=MetricUnit.Count, value=group.on_demand_base)
        return decision

    return _report(until_written(_RECORD.format(group=name), attempt), raw)


def _carry_out(decision: CapacityDecision, dependencies: LaunchDependencies) -> CapacityDecision:
    """Write the record, then set the base. Raises RecordChanged where it was changed since it was read."""
    if decision.record is not None:
        dependencies.records.write(decision.record)
    if decision.on_demand_base is not None:
        dependencies.groups.set_on_demand_base(dependencies.environment.group, decision.on_demand_base)
        metrics.add_metric(name="OnDemandBase", unit=MetricUnit.Count, value=decision.on_demand_base)
    return decision


def _snapshot(event: LaunchEvent, dependencies: LaunchDependencies) -> CapacitySnapshot:
    spot = dependencies.instances.is_spot(event.instance_id) if isinstance(event, LaunchSucceeded) else None
    return CapacitySnapshot(dependencies.groups.find(event.group), dependencies.records.find(event.group), spot)


def _limits(dependencies: LaunchDependencies) -> BaseLimits:
    return BaseLimits(dependencies.environment.on_demand_base, dependencies.environment.on_demand_limit)


def _report(decision: CapacityDecision, raw: Mapping[str, Any]) -> dict[str, str]:
    result = {"action": decision.action.value, "reason": decision.reason}
    logger.info("decided", extra={**result, "event_id": str(raw.get("id")), "base": decision.on_demand_base})
    metrics.add_metric(name=f"Capacity{decision.action.value.title()}", unit=MetricUnit.Count, value=1)
    return result
