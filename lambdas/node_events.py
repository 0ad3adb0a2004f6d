"""Handle EC2's events about instances: read, decide, write.

Where a write finds the record changed, the event is read and decided again; after some attempts the invocation fails,
and EventBridge retries later. No other error is caught.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, IdempotencyConfig

from lambdas.adapters.dynamodb import DynamoRecords
from lambdas.adapters.ec2 import Ec2Instances
from lambdas.adapters.ports import Instances, RecordChanged, Records, StreamRecords
from lambdas.adapters.stream_records import DynamoStreams
from lambdas.conditional_writes import until_written
from lambdas.core.decisions import Action, Decision, Snapshot, decide
from lambdas.environment import Environment, from_environ, table_from_environ
from lambdas.stream_events import handle_streams
from node_agent.contract import environment as env
from node_agent.contract import names
from node_agent.contract.aws_events import Ec2Event, parse_event
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE

IDEMPOTENCY = IdempotencyConfig(event_key_jmespath="id", raise_on_no_idempotency_key=True, expires_after_seconds=86_400)
"""EventBridge retries for a day at most; an event's id is the same each time."""

logger = Logger(service="synkti")
metrics = Metrics(namespace="Synkti", service="synkti")
if os.environ.get(env.CLUSTER):  # without it, the handlers fail by a ConfigurationError
    metrics.set_default_dimensions(**{names.CLUSTER_DIMENSION: os.environ[env.CLUSTER]})


@dataclass(frozen=True)
class Dependencies:
    """What the handlers use. clock: unix seconds."""

    environment: Environment
    instances: Instances
    records: Records
    streams: StreamRecords
    clock: Callable[[], float]


def from_aws(clock: Callable[[], float]) -> Dependencies:
    """Create the dependencies on AWS from this process's environment. Raises ConfigurationError."""
    environment = from_environ(os.environ)
    table = boto3.resource("dynamodb").Table(environment.table)
    instances, records, streams = Ec2Instances(boto3.client("ec2")), DynamoRecords(table), DynamoStreams(table)
    return Dependencies(environment, instances, records, streams, clock)


def idempotency_store() -> DynamoDBPersistenceLayer:
    """Create Powertools' idempotency store, which uses the same table under a partition key of its own."""
    return DynamoDBPersistenceLayer(
        table_name=table_from_environ(os.environ),
        key_attr=PARTITION_KEY,
        sort_key_attr=SORT_KEY,
        expiry_attr=TTL_ATTRIBUTE,
        static_pk_value="idempotency",
    )


def handle_node_event(raw: Mapping[str, Any], kind: type[Ec2Event], dependencies: Dependencies) -> dict[str, str]:
    """Parse one event and carry out its decision.

    Args:
        raw: the event, as EventBridge delivers it.
        kind: the handler's event class; events of others are ignored.
        dependencies: AWS, or fakes of it.

    Raises RecordChanged as `until_written`, ValueError for a malformed event, and botocore's errors.

    Returns:
        The action and its reason.
    """
    metrics.add_metric(name="EventReceived", unit=MetricUnit.Count, value=1)
    event = parse_event(raw)
    if not isinstance(event, kind):
        return _report(Decision(Action.IGNORE, "not an event of this handler"), str(raw.get("id")), "")

    def attempt() -> Decision:
        snapshot = Snapshot(
            dependencies.instances.find(event.instance_id), dependencies.records.find(event.instance_id)
        )
        decision = decide(event, snapshot, dependencies.environment.cluster, dependencies.clock())
        if decision.action is not Action.IGNORE:
            dependencies.records.write(decision)
        return decision

    decision = until_written(f"the record of {event.instance_id}", attempt)
    if decision.interrupted:
        _record_interruption(dependencies, decision, event.at)
    if decision.tags is not None:
        dependencies.instances.tag(event.instance_id, decision.tags)
    _record_streams(event, dependencies)
    return _report(decision, event.event_id, event.instance_id)


def _record_interruption(dependencies: Dependencies, decision: Decision, at: float) -> None:
    """Count the interruption for its pool. Lost races do not fail the invocation: the node's record is written."""
    if decision.record is None:
        return
    pool = decision.record
    try:
        until_written(
            f"the record of pool {pool.zone} {pool.instance_type}",
            lambda: dependencies.records.record_interruption(pool.zone, pool.instance_type, at, dependencies.clock()),
        )
    except RecordChanged:
        logger.warning("the pool's interruption was not counted: too many concurrent writes")


def _record_streams(event: Ec2Event, dependencies: Dependencies) -> None:
    """Record what the event means for the node's open streams, also where the node's own record has it already."""
    outcome = handle_streams(event, dependencies.streams, dependencies.clock())
    logger.info("streams", extra={"reason": outcome.reason, "orphaned": outcome.orphaned, "closed": outcome.others})
    if outcome.orphaned:
        metrics.add_metric(name="StreamsOrphaned", unit=MetricUnit.Count, value=outcome.orphaned)


def _report(decision: Decision, event_id: str, instance_id: str) -> dict[str, str]:
    result = {"action": decision.action.value, "reason": decision.reason}
    logger.info("decided", extra={**result, "event_id": event_id, "instance_id": instance_id})
    metrics.add_metric(name=f"Event{decision.action.value.title()}", unit=MetricUnit.Count, value=1)
    return result
