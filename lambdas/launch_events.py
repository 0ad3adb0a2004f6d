"""What the handler of launches does: read, decide, record, and then set the group's base.

The record comes first, so that whatever fails afterwards is finished by the retry of the same event.
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
from lambdas.adapters.ports import CapacityRecords, Groups, Instances, RecordChanged
from lambdas.core.on_demand_fallback import (
    BaseLimits,
    CapacityAction,
    CapacityDecision,
    CapacitySnapshot,
    decide_capacity,
)
from lambdas.environment import CapacityEnvironment, capacity_from_environ
from lambdas.node_events import TRIES, logger, metrics
from node_agent.contract.capacity import LaunchEvent, LaunchSucceeded, parse_launch


@dataclass(frozen=True)
class CapacityAdapters:
    """clock: unix seconds."""

    environment: CapacityEnvironment
    groups: Groups
    instances: Instances
    records: CapacityRecords
    clock: Callable[[], float]


def from_aws(clock: Callable[[], float]) -> CapacityAdapters:
    """The real ones, from this process's environment."""
    environment = capacity_from_environ(os.environ)
    return CapacityAdapters(
        environment,
        AutoScalingGroups(boto3.client("autoscaling")),
        Ec2Instances(boto3.client("ec2")),
        DynamoCapacity(boto3.resource("dynamodb").Table(environment.table)),
        clock,
    )


def react_to_launch(raw: Mapping[str, Any], adapters: CapacityAdapters) -> dict[str, str]:
    """One event, from reading it to having done what it means.

    Raises ValueError for a malformed event, RecordChanged after too many races, botocore's errors as they come.
    """
    metrics.add_metric(name="EventReceived", unit=MetricUnit.Count, value=1)
    event = parse_launch(raw)
    if event is None:
        return _told(CapacityDecision(CapacityAction.IGNORE, "an event of another kind"), raw)
    if event.group != adapters.environment.group:
        return _told(CapacityDecision(CapacityAction.IGNORE, "another group"), raw)
    for _ in range(TRIES):
        decision = decide_capacity(event, _look(event, adapters), _bounds(adapters), adapters.clock())
        try:
            if decision.record is not None:
                adapters.records.write(decision.record)
        except RecordChanged:
            continue
        if decision.base is not None:
            adapters.groups.set_base(event.group, decision.base)
            metrics.add_metric(name="OnDemandBase", unit=MetricUnit.Count, value=decision.base)
        return _told(decision, raw)
    raise RecordChanged(f"the capacity record of {event.group} changed {TRIES} times while it was written")


def _look(event: LaunchEvent, adapters: CapacityAdapters) -> CapacitySnapshot:
    spot = adapters.instances.is_spot(event.instance_id) if isinstance(event, LaunchSucceeded) else None
    return CapacitySnapshot(adapters.groups.find(event.group), adapters.records.find(event.group), spot)


def _bounds(adapters: CapacityAdapters) -> BaseLimits:
    return BaseLimits(adapters.environment.base, adapters.environment.limit)


def _told(decision: CapacityDecision, raw: Mapping[str, Any]) -> dict[str, str]:
    told = {"action": decision.action.value, "reason": decision.reason}
    logger.info("decided", extra={**told, "event_id": str(raw.get("id")), "base": decision.base})
    metrics.add_metric(name=f"Capacity{decision.action.value.title()}", unit=MetricUnit.Count, value=1)
    return told
