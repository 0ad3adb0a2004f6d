"""Count the streams that stay orphaned, for a metric and its alarm."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import boto3
from aws_lambda_powertools.metrics import MetricUnit

from lambdas.adapters.ports import StreamRecords
from lambdas.adapters.stream_records import DynamoStreams
from lambdas.environment import table_from_environ
from lambdas.node_events import logger, metrics

STAYS_S = 300.0
"""For so long the replicas of a stream store its journal: after that its client cannot resume it from them."""


@dataclass(frozen=True)
class OrphanDependencies:
    """What the check uses. clock: unix seconds."""

    streams: StreamRecords
    clock: Callable[[], float]


def from_aws(clock: Callable[[], float]) -> OrphanDependencies:
    """Create the dependencies on AWS from this process's environment. Raises ConfigurationError."""
    table = boto3.resource("dynamodb").Table(table_from_environ(os.environ))
    return OrphanDependencies(DynamoStreams(table), clock)


def count_orphans(dependencies: OrphanDependencies) -> dict[str, str]:
    """Count the streams that are orphaned for longer than STAYS_S, and publish it. Raises botocore's errors."""
    now = dependencies.clock()
    count = dependencies.streams.orphaned(now - STAYS_S, now)
    metrics.add_metric(name="OrphanedStreams", unit=MetricUnit.Count, value=count)
    result = {"action": "count", "reason": f"{count} streams are orphaned for more than {STAYS_S:.0f} s"}
    logger.info("decided", extra=result)
    return result
