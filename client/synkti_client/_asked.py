"""What an application's request asks for, read where it decides how a node is asked and how its answer is given back.

    X-Synkti-Event-Ids: true      the application keeps the ids of events itself
    Last-Event-ID                 so it does
    Accept: text/event-stream     alone, as an EventSource sends it: so it does

Every node is sent the first of these, since this package resumes with ids; all other applications get streams without
`id:`, `retry:` and comments, as an engine sends them. Nodes read the same headers in the same way
(`node_agent/core/openai/client_headers`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from synkti_client._httpx import httpx

EVENT_IDS_HEADER = "x-synkti-event-ids"
STREAMS_PATH = "/v1/streams/"
_CONTINUED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_YES = frozenset({"1", "on", "t", "true", "y", "yes"})
_ASKS_FOR_IDS = frozenset({"1", "true", "yes"})
_SIGNS = (b"stream", b"\\u", b"\0")
"""One of these is in every body with the key `stream`: as it is, escaped, or in UTF-16, which engines read, too."""

_REPEATED = "x-stainless-retry-count"


@dataclass(frozen=True)
class Asked:
    """streams: whether a node sends the head of its answer within seconds, whatever its engine does.

    uses_ids: whether the application reads the ids of events; last_id: of the last event that it has.
    read_s: how long the application waits for an answer in one piece, in seconds; None: as long as it takes.
    is_repeated: an SDK sends it again, after an attempt of its own failed.
    """

    streams: bool
    uses_ids: bool
    last_id: str
    read_s: float | None
    is_repeated: bool


def read(request: httpx.Request, body: bytes) -> Asked:
    headers, path = request.headers, request.url.path
    timeout: dict[str, Any] = request.extensions.get("timeout") or {}
    is_resumed = path.startswith(STREAMS_PATH)
    streams = is_resumed or (path in _CONTINUED and asks_for_stream(body))
    return Asked(
        streams,
        _uses_ids(headers),
        headers.get("last-event-id", "") if is_resumed else "",
        None if streams else timeout.get("read"),
        headers.get(_REPEATED, "0") not in ("", "0"),
    )


def asks_for_stream(body: bytes) -> bool:
    """Whether this is a JSON object whose field `stream` an engine reads as true, and that it answers at once."""
    if not any(sign in body for sign in _SIGNS):
        return False  # most bodies of answers in one piece are not parsed
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False  # the node says what is wrong with it
    return isinstance(fields, dict) and _is_true(fields.get("stream")) and not _is_true(fields.get("background"))


def _is_true(value: object) -> bool:
    """As vLLM reads a boolean (pydantic's lax mode)."""
    if isinstance(value, str):
        return value.lower() in _YES
    return value is True or (isinstance(value, (int, float)) and value == 1)


def _uses_ids(headers: httpx.Headers) -> bool:
    if (asked := headers.get(EVENT_IDS_HEADER)) is not None:
        return asked.strip().lower() in _ASKS_FOR_IDS
    accepted = headers.get("accept", "").partition(";")[0].strip().lower()
    return accepted == "text/event-stream" or "last-event-id" in headers
