"""Classify a node's response to a new request: return it to the application, or retry at another node."""

from __future__ import annotations

import json
from enum import Enum

from synkti_client._httpx import httpx

STREAM_HEADER = "x-synkti-stream"
RETRYABLE_CODES = frozenset(
    {
        "handoff", "stream_taken", "no_ready_node", "journal_behind", "too_many_streams", "too_many_connections",
        "too_many_bodies",
    }
)  # fmt: skip
"""Error codes that depend on this node or this moment, not on the request."""

ENGINE_LOST = "engine_lost"
"""Error code where engines failed during the request: with their nodes, or possibly because of it."""

_ERROR_STATUSES = frozenset({500, 502, 503, 504})
_JSON = "application/json"
_LONGEST_RETRY_AFTER_S = 5.0
_MAX_CODE_BYTES = 1024 * 1024


class Verdict(Enum):
    """What to do with a response."""

    RETURN = "return it to the application"
    RETRY = "retry at another node, or at the same one later"
    RETRY_ONCE = "retry at one other node only: the request itself may cause the error"


def classify(status: int, body: bytes, *, is_final: bool = False) -> Verdict:
    """Return what to do with a response. is_final: True where every node would answer so (see `is_final`)."""
    if is_final or (status not in _ERROR_STATUSES and status != 429):
        return Verdict.RETURN
    code = error_code(body)
    if code in RETRYABLE_CODES:
        return Verdict.RETRY
    return Verdict.RETURN if status == 429 else Verdict.RETRY_ONCE


def is_final(headers: httpx.Headers) -> bool:
    """Return True where two engines gave the node the same result; OpenAI's SDKs read this header too."""
    return bool(headers.get("x-should-retry") == "false")


def error_code(body: bytes) -> str | None:
    """Return the code of an error body in OpenAI's form, {"error": {"code": ...}}; Anthropic's only has more fields."""
    if len(body) > _MAX_CODE_BYTES:
        return None
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) else None


def retry_after_s(headers: httpx.Headers) -> float:
    """Return the response's Retry-After in seconds, bounded; 0 where there is none, or none that can be parsed."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return min(seconds, _LONGEST_RETRY_AFTER_S) if seconds > 0 else 0.0


def is_resumable(response: httpx.Response) -> bool:
    """Return True for a stream that any node can continue."""
    is_stream = response.status_code == 200 and _media_type(response) == "text/event-stream"
    return is_stream and STREAM_HEADER in response.headers


def is_buffered(response: httpx.Response) -> bool:
    """Return True where the body is read whole before the application gets it: until then a retry is possible."""
    return response.status_code >= 400 or _media_type(response) == _JSON


def _media_type(response: httpx.Response) -> str:
    media_type: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type
