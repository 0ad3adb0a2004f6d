"""What a node's answer to a new request means: the application's answer, or a reason to ask another node."""

from __future__ import annotations

import json
from enum import Enum

from synkti_client._httpx import httpx

STREAM_HEADER = "x-synkti-stream"
NOT_HERE = frozenset(
    {
        "handoff", "stream_taken", "no_ready_node", "journal_behind", "too_many_streams", "too_many_connections",
        "too_many_bodies",
    }
)  # fmt: skip
"""Error codes of a node that say nothing of the request, only of this node or this moment."""

ENGINE_LOST = "engine_lost"
"""Engines were lost under the request: perhaps with their nodes, perhaps because of it."""

_FAULTS = frozenset({500, 502, 503, 504})
_JSON = "application/json"
_LONGEST_RETRY_AFTER_S = 5.0
_MAX_CODE_BYTES = 1024 * 1024


class Verdict(Enum):
    ANSWER = "the application's, whatever it says"
    LATER = "another node, or the same one later, may do it"
    ONCE_MORE = "a fault that may be the request's own: one other node is asked, not all"


def judge(status: int, body: bytes, *, is_final: bool = False) -> Verdict:
    """is_final: whether the node says that every node would answer so (`is_final`)."""
    if is_final or (status not in _FAULTS and status != 429):
        return Verdict.ANSWER
    code = error_code(body)
    if code in NOT_HERE:
        return Verdict.LATER
    return Verdict.ANSWER if status == 429 else Verdict.ONCE_MORE


def is_final(headers: httpx.Headers) -> bool:
    """Whether the node that answered has had the opinion of two engines: the header that OpenAI's SDKs read, too."""
    return bool(headers.get("x-should-retry") == "false")


def error_code(body: bytes) -> str | None:
    """The code in an error body of OpenAI's form, {"error": {"code": ...}}; Anthropic's differs only in more fields."""
    if len(body) > _MAX_CODE_BYTES:
        return None
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) else None


def retry_after_s(headers: httpx.Headers) -> float:
    """What a node asks for before the next attempt, bounded; 0 where it says nothing that can be read."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return min(seconds, _LONGEST_RETRY_AFTER_S) if seconds > 0 else 0.0


def is_resumable(response: httpx.Response) -> bool:
    """Whether it is a stream that any node can continue."""
    is_stream = response.status_code == 200 and _media_type(response) == "text/event-stream"
    return is_stream and STREAM_HEADER in response.headers


def comes_whole(response: httpx.Response) -> bool:
    """Whether it is read to its end before the application sees it, so that another node can be asked until then."""
    return response.status_code >= 400 or _media_type(response) == _JSON


def _media_type(response: httpx.Response) -> str:
    media_type: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type
