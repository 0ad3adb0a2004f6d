"""Handle nodes that gave up: after some in a row, the group launches no more of that version."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from aws_lambda_powertools.utilities.idempotency import idempotent
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.breaker_events import BreakerDependencies, from_aws, handle_breaker_event
from lambdas.node_events import IDEMPOTENCY, idempotency_store, logger, metrics


@lru_cache(maxsize=1)
def _dependencies() -> BreakerDependencies:
    return from_aws(time.time)


@logger.inject_lambda_context
@idempotent(persistence_store=idempotency_store(), config=IDEMPOTENCY)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, str]:
    """Handle one event; return the action and its reason."""
    return handle_breaker_event(event, _dependencies())
