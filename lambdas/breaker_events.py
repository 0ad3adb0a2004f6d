"""Handle nodes that gave up, and a schedule: read, decide, record, then suspend or resume the group's launches."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from aws_lambda_powertools.metrics import MetricUnit

from lambdas.adapters.autoscaling import AutoScalingGroups
from lambdas.adapters.dynamodb import DynamoBreaker
from lambdas.adapters.ec2 import Ec2Instances
from lambdas.adapters.ports import BreakerRecords, Instances, Launches
from lambdas.conditional_writes import until_written
from lambdas.core.launch_breaker import BreakerAction, BreakerDecision, decide_breaker, decide_resume
from lambdas.environment import CapacityEnvironment, capacity_from_environ
from lambdas.node_events import logger, metrics
from node_agent.contract.launch_breaker import parse_breaker_event
from node_agent.contract.tags import CLUSTER_TAG, VERSION_TAG

_RECORD = "the breaker's record of {group}"


@dataclass(frozen=True)
class BreakerDependencies:
    """What the handlers use. clock: unix seconds."""

    environment: CapacityEnvironment
    groups: Launches
    instances: Instances
    records: BreakerRecords
    clock: Callable[[], float]


def from_aws(clock: Callable[[], float]) -> BreakerDependencies:
    """Create the dependencies on AWS from this process's environment. Raises ConfigurationError."""
    environment = capacity_from_environ(os.environ)
    return BreakerDependencies(
        environment,
        AutoScalingGroups(boto3.client("autoscaling")),
        Ec2Instances(boto3.client("ec2")),
        DynamoBreaker(boto3.resource("dynamodb").Table(environment.table)),
        clock,
    )


def handle_breaker_event(raw: Mapping[str, Any], dependencies: BreakerDependencies) -> dict[str, str]:
    """Parse one event of a node and carry out its decision.

    Args:
        raw: the event, as EventBridge delivers it.
        dependencies: AWS, or fakes of it.

    Raises RecordChanged as `until_written`, ValueError for a malformed event, and botocore's errors.

    Returns:
        The action and its reason.
    """
    event = parse_breaker_event(raw)
    if event is None:
        return _report(BreakerDecision(BreakerAction.IGNORE, "not about a node that gave up or serves"))
    if event.group != dependencies.environment.group:
        return _report(BreakerDecision(BreakerAction.IGNORE, "another group"))
    version = _node_version(event.instance_id, dependencies)

    def attempt() -> BreakerDecision:
        group, record = dependencies.groups.find(event.group), dependencies.records.find(event.group)
        decision = decide_breaker(event, group, record, version, dependencies.clock())
        return _carry_out(decision, dependencies)

    return _report(until_written(_RECORD.format(group=event.group), attempt))


def check_breaker(dependencies: BreakerDependencies) -> dict[str, str]:
    """Resume launches for a new version. Returns the action and its reason. Raises as handle_breaker_event."""
    name = dependencies.environment.group

    def attempt() -> BreakerDecision:
        group, record = dependencies.groups.find(name), dependencies.records.find(name)
        return _carry_out(decide_resume(group, record, dependencies.clock()), dependencies)

    return _report(until_written(_RECORD.format(group=name), attempt))


def _node_version(instance_id: str, dependencies: BreakerDependencies) -> str | None:
    """Return the version in the instance's tag; None where it is no node of this cluster. EC2 keeps it for an hour.

    Only the group's own tags count: an agent that ends by itself removes those that it wrote.
    """
    found = dependencies.instances.find(instance_id)
    if found is None or found.tags.get(CLUSTER_TAG) != dependencies.environment.cluster:
        return None
    return found.tags.get(VERSION_TAG)


def _carry_out(decision: BreakerDecision, dependencies: BreakerDependencies) -> BreakerDecision:
    """Write the record, then suspend or resume. Raises RecordChanged where it was changed since it was read."""
    if decision.record is not None:
        dependencies.records.write(decision.record)
    if decision.suspend is True:
        dependencies.groups.suspend_launches(dependencies.environment.group)
    elif decision.suspend is False:
        dependencies.groups.resume_launches(dependencies.environment.group)
    return decision


def _report(decision: BreakerDecision) -> dict[str, str]:
    result = {"action": decision.action.value, "reason": decision.reason}
    logger.info("decided on launches", extra=result)
    metrics.add_metric(name=f"Breaker{decision.action.value.title()}", unit=MetricUnit.Count, value=1)
    return result
