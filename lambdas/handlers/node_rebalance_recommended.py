"""Handle rebalance recommendations: EC2 reports an elevated risk of interruption, and the node is at-risk."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from aws_lambda_powertools.utilities.idempotency import idempotent
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.node_events import (
    IDEMPOTENCY,
    Dependencies,
    from_aws,
    handle_node_event,
    idempotency_store,
    logger,
    metrics,
)
from node_agent.contract.aws_events import RebalanceRecommendation


@lru_cache(maxsize=1)
def _dependencies() -> Dependencies:
    return from_aws(time.time)


@logger.inject_lambda_context
@idempotent(persistence_store=idempotency_store(), config=IDEMPOTENCY)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, str]:
    """Handle one event; return the action and its reason."""
    return handle_node_event(event, RebalanceRecommendation, _dependencies())
