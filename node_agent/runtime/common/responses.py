"""Responses that both APIs send in the same form: JSON, and errors in the form of the route's clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from node_agent.contract.errors import LimitExceeded, route_error
from node_agent.ports import ServerRequest

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of an engine's response that is read whole."""

EVENT_STREAM = b"text/event-stream; charset=utf-8"
_FINAL = (b"x-should-retry", b"false")
"""OpenAI's SDKs, and ours, send a request again after a 5xx unless an answer says this."""


def final_headers(status: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response that would be the same at any node."""
    return [_FINAL] if status >= 500 else []


def answer_json(request: ServerRequest, value: Mapping[str, Any], status: int = 200) -> None:
    """Send a value as a whole response, in JSON."""
    request.respond(status, orjson.dumps(value))


def answer_error(
    request: ServerRequest,
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    kind: str | None = None,
    retry_after_s: float | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Send an error in its route's form; with Retry-After (whole seconds, at least 1) where another try makes sense.

    kind: OpenAI's type of it, if not the usual one of the status.
    """
    more = [] if retry_after_s is None else [(b"retry-after", str(max(1, round(retry_after_s))).encode())]
    body = error_body(request.path, status, code, message, param, kind)
    request.respond(status, body, more=[*more, *headers])


def answer_limited(request: ServerRequest, exceeded: LimitExceeded) -> None:
    """Answer that a key's limit is used up, as OpenAI does: the error's type is what is limited."""
    retry_after_s = None if exceeded.is_final else exceeded.retry_after_s
    headers = [_FINAL] if exceeded.is_final else []
    answer_error(
        request, 429, "rate_limit_exceeded", str(exceeded),
        kind=exceeded.kind, retry_after_s=retry_after_s, headers=headers,
    )  # fmt: skip


def error_body(
    path: str, status: int, code: str, message: str, param: str | None = None, kind: str | None = None
) -> bytes:
    """Encode an error in the form of its route's clients. path: of the route."""
    return orjson.dumps(route_error(path, status, code, message, param, kind))
