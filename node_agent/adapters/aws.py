"""Call boto3 in threads, with short timeouts; its exceptions become StoreUnavailable.

An invalid answer of AWS (no JSON, no XML, a missing key, an invalid number) is StoreUnavailable too, whether boto3 or
the adapter that reads the answer raises over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from node_agent.contract.errors import StoreUnavailable

_CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "max_attempts": 3})
_CONNECTIONS = 10
_THREADS = 4
"""Of one service: its adapter's concurrent calls, for a call that hangs takes 40 s until its last try is over."""

_TIMEOUT_S = 60.0
"""For one call with all its tries. Only its thread waits longer, where an answer comes byte by byte."""

CALL_ERRORS = (
    BotoCoreError, Boto3Error, ClientError, ResponseParserError, OSError,
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What a call may raise: botocore's own errors, then what its parsers, and ours, raise over an invalid answer. botocore
documents no list, and its parsers' errors pass through.
"""

_T = TypeVar("_T")


def aws_client(service: str, region: str | None, connections: int = _CONNECTIONS) -> Any:
    """Return a boto3 client of `service`.

    botocore finds the endpoint, the credentials and, where it is None, the region.

    connections: the maximum of concurrent requests.
    """
    config = _CONFIG.merge(Config(max_pool_connections=connections))
    return boto3.session.Session(region_name=region).client(service, config=config)  # type: ignore[call-overload]


def aws_threads(service: str) -> Executor:
    """Make threads for one service's calls. A service that hangs fills its own threads, and blocks no other."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix=f"aws-{service}")


async def in_thread(what: str, call: Callable[[], _T], threads: Executor) -> _T:
    """Run a blocking AWS call, and what reads its answer. Raises StoreUnavailable, which names `what` was tried."""
    return await in_pool(threads, what, call)


async def in_pool(pool: Executor, what: str, call: Callable[[], _T], within_s: float = _TIMEOUT_S) -> _T:
    """Run a call as `in_thread` does, with another bound. within_s: seconds."""
    return await _bounded(what, asyncio.get_running_loop().run_in_executor(pool, call), within_s)


async def _bounded(what: str, running: Awaitable[_T], within_s: float = _TIMEOUT_S) -> _T:
    try:
        async with asyncio.timeout(within_s):
            return await running
    except TimeoutError as error:
        raise StoreUnavailable(f"{what}: no answer within {within_s:.0f} s") from error
    except (BotoCoreError, Boto3Error, ClientError) as error:
        raise StoreUnavailable(f"{what}: {error}") from error
    except CALL_ERRORS as error:
        raise StoreUnavailable(f"{what}: an answer that cannot be read: {error!r}") from error


def error_code(error: StoreUnavailable) -> str:
    """Return AWS's code of the failure, "" where there was no answer."""
    return _error_field(error, "Code")


def error_message(error: StoreUnavailable) -> str:
    """Return AWS's message of the failure, "" where there was no answer."""
    return _error_field(error, "Message")


def _error_field(error: StoreUnavailable, what: str) -> str:
    cause = error.__cause__
    answer = cause.response.get("Error") if isinstance(cause, ClientError) else None
    return str(answer.get(what, "")) if isinstance(answer, dict) else ""
