"""What the handlers have in common: read, decide, write; and the adapters, made once for each container.

A write that finds the record changed reads and decides again; after `TRIES` the invocation fails, so that EventBridge
comes back later. Nothing is caught that is not understood.
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
from lambdas.adapters.ports import Instances, RecordChanged, Records
from lambdas.core.decisions import Action, Decision, Snapshot, decide
from lambdas.environment import Environment, from_environ, table_from_environ
from node_agent.contract.aws_events import Ec2Event, parse_event
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE

TRIES = 3
"""Of a write that finds its record changed, each after reading and deciding again."""

IDEMPOTENCY = IdempotencyConfig(event_key_jmespath="id", raise_on_no_idempotency_key=True, expires_after_seconds=86_400)
"""EventBridge retries for a day at most; an event's id is the same each time."""

logger = Logger(service="synkti")
metrics = Metrics(namespace="Synkti", service="synkti")


@dataclass(frozen=True)
class Dependencies:
    """clock: unix seconds."""

    environment: Environment
    instances: Instances
    records: Records
    clock: Callable[[], float]


def from_aws(clock: Callable[[], float]) -> Dependencies:
    """The real ones, from this process's environment."""
    environment = from_environ(os.environ)
    table = boto3.resource("dynamodb").Table(environment.table)
    return Dependencies(environment, Ec2Instances(boto3.client("ec2")), DynamoRecords(table), clock)


def idempotency_rows() -> DynamoDBPersistenceLayer:
    """Powertools' rows, in the same table under keys of their own."""
    return DynamoDBPersistenceLayer(
        table_name=table_from_environ(os.environ),
        key_attr=PARTITION_KEY,
        sort_key_attr=SORT_KEY,
        expiry_attr=TTL_ATTRIBUTE,
        static_pk_value="idempotency",
    )


def handle_node_event(raw: Mapping[str, Any], kind: type[Ec2Event], adapters: Dependencies) -> dict[str, str]:
    """One event, from reading it to having written what it means. kind: what the handler is there for.

    Raises ValueError for a malformed event, RecordChanged after too many races, botocore's errors as they come.
    """
    metrics.add_metric(name="EventReceived", unit=MetricUnit.Count, value=1)
    event = parse_event(raw)
    if not isinstance(event, kind):
        return _told(Decision(Action.IGNORE, "an event of a kind that is not this handler's"), str(raw.get("id")), "")
    for _ in range(TRIES):
        snapshot = Snapshot(adapters.instances.find(event.instance_id), adapters.records.find(event.instance_id))
        decision = decide(event, snapshot, adapters.environment.cluster, adapters.clock())
        try:
            if decision.action is not Action.IGNORE:
                adapters.records.write(decision)
        except RecordChanged:
            continue
        if decision.interrupted:
            _note_pool(adapters, decision, event.at)
        if decision.tags is not None:
            adapters.instances.tag(event.instance_id, decision.tags)
        return _told(decision, event.event_id, event.instance_id)
    raise RecordChanged(f"the record of {event.instance_id} changed {TRIES} times while it was written")


def _note_pool(adapters: Dependencies, decision: Decision, at: float) -> None:
    """Count the interruption for its pool; losing a race here must not undo the node's own record."""
    if decision.record is None:
        return
    for _ in range(TRIES):
        try:
            adapters.records.note_interruption(
                decision.record.zone, decision.record.instance_type, at, adapters.clock()
            )
        except RecordChanged:
            continue
        return
    logger.warning("the pool's interruption was not counted: too many at once")


def _told(decision: Decision, event_id: str, instance_id: str) -> dict[str, str]:
    told = {"action": decision.action.value, "reason": decision.reason}
    logger.info("decided", extra={**told, "event_id": event_id, "instance_id": instance_id})
    metrics.add_metric(name=f"Event{decision.action.value.title()}", unit=MetricUnit.Count, value=1)
    return told
