"""Auto Scaling launched an instance, or could not: where spot has no capacity, on-demand instances fill in."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from aws_lambda_powertools.utilities.idempotency import idempotent
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.launch_events import CapacityAdapters, from_aws, react_to_launch
from lambdas.node_events import IDEMPOTENCY, idempotency_rows, logger, metrics


@lru_cache(maxsize=1)
def _adapters() -> CapacityAdapters:
    return from_aws(time.time)


@logger.inject_lambda_context
@idempotent(persistence_store=idempotency_rows(), config=IDEMPOTENCY)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, str]:
    """Returns what was decided, and why."""
    return react_to_launch(event, _adapters())
