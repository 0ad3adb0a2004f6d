"""Handle the fleet's size: each deployment from the workflow compares it, and sets it."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.size_request import SizeDependencies, from_aws, handle_request

logger = Logger(service="synkti")


@lru_cache(maxsize=1)
def _dependencies() -> SizeDependencies:
    return from_aws(os.environ)


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, str]:
    """Handle one request; return the action and its reason."""
    return handle_request(event, _dependencies())
