"""Handle a schedule: a raised on-demand base falls, launches resume for a new version, orphaned streams are counted."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from aws_lambda_powertools.utilities.idempotency import idempotent
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas import breaker_events, launch_events, orphan_check
from lambdas.node_events import IDEMPOTENCY, idempotency_store, logger, metrics


@lru_cache(maxsize=1)
def _dependencies() -> tuple[
    launch_events.LaunchDependencies, breaker_events.BreakerDependencies, orphan_check.OrphanDependencies
]:
    return launch_events.from_aws(time.time), breaker_events.from_aws(time.time), orphan_check.from_aws(time.time)


@logger.inject_lambda_context
@idempotent(persistence_store=idempotency_store(), config=IDEMPOTENCY)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, dict[str, str]]:
    """Handle one event; return the actions and their reasons."""
    launch, breaker, orphans = _dependencies()
    return {
        "launches": breaker_events.check_breaker(breaker),
        "base": launch_events.handle_check(event, launch),
        "streams": orphan_check.count_orphans(orphans),
    }
