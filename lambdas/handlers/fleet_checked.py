"""Handle a schedule: a raised on-demand base falls again once spot launches have stopped to fail."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from aws_lambda_powertools.utilities.idempotency import idempotent
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.launch_events import LaunchDependencies, from_aws, handle_check
from lambdas.node_events import IDEMPOTENCY, idempotency_store, logger, metrics


@lru_cache(maxsize=1)
def _dependencies() -> LaunchDependencies:
    return from_aws(time.time)


@logger.inject_lambda_context
@idempotent(persistence_store=idempotency_store(), config=IDEMPOTENCY)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, str]:
    """Handle one event; return the action and its reason."""
    return handle_check(event, _dependencies())
