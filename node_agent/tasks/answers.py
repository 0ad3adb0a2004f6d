"""Answers that both doors give in the same form: JSON, and OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from node_agent.contract.errors import openai_error
from node_agent.ports import DoorRequest

_FINAL = (b"x-should-retry", b"false")
"""OpenAI's SDKs, and ours, send a request again after a 5xx unless an answer says this."""


def final_headers(status: int) -> list[tuple[bytes, bytes]]:
    """For an answer that would be the same at any node."""
    return [_FINAL] if status >= 500 else []


def answer_json(request: DoorRequest, value: Mapping[str, Any], status: int = 200) -> None:
    request.respond(status, orjson.dumps(value))


def answer_error(
    request: DoorRequest,
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    retry_after_s: float | None = None,
) -> None:
    """An error in OpenAI's form; with Retry-After (whole seconds, at least 1) where another try makes sense."""
    more = [] if retry_after_s is None else [(b"retry-after", str(max(1, round(retry_after_s))).encode())]
    request.respond(status, orjson.dumps(openai_error(status, code, message, param)), more=more)
