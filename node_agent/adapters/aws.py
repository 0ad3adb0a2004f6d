"""How boto3 is used here: in threads, with short timeouts, its exceptions turned into StoreUnavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from node_agent.contract.errors import StoreUnavailable

_CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "max_attempts": 3})
_CONNECTIONS = 10
_T = TypeVar("_T")


def aws_client(service: str, region: str | None, connections: int = _CONNECTIONS) -> Any:
    """A boto3 client of `service`; endpoint, credentials and, where it is None, the region are botocore's to find.

    connections: how many requests may be under way at once.
    """
    config = _CONFIG.merge(Config(max_pool_connections=connections))
    return boto3.session.Session(region_name=region).client(service, config=config)  # type: ignore[call-overload]


async def in_thread(what: str, call: Callable[[], _T]) -> _T:
    """Run a blocking AWS call. Raises StoreUnavailable, naming `what` was tried."""
    try:
        return await asyncio.to_thread(call)
    except (BotoCoreError, ClientError) as error:
        raise StoreUnavailable(f"{what}: {error}") from error


def error_code(error: StoreUnavailable) -> str:
    """AWS's own code for the failure, "" where there was no answer."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


def error_message(error: StoreUnavailable) -> str:
    """AWS's own words for the failure, "" where there was no answer."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Message", "")) if isinstance(cause, ClientError) else ""
