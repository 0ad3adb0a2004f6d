"""Parse the properties of an application's request that decide how it is sent, and how its response is returned.

An application that uses event ids itself sends one of these headers:

    X-Synkti-Event-Ids: true
    Last-Event-ID
    Accept: text/event-stream     alone, as an EventSource sends it

This package sends the first of them to every node, since it resumes with ids. Applications that send none of them get
streams without `id:`, `retry:` and comments, as an engine sends them. Nodes parse the headers in the same way
(`node_agent/core/openai/client_headers`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from synkti_client._httpx import httpx

EVENT_IDS_HEADER = "x-synkti-event-ids"
STREAMS_PATH = "/v1/streams/"
CREDENTIAL_HEADERS = ("authorization", "x-api-key")
"""The headers in which a request has its API key."""

_STREAMING_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_TRUE_TEXTS = frozenset({"1", "on", "t", "true", "y", "yes"})
_TRUE_HEADER_VALUES = frozenset({"1", "true", "yes"})
_STREAM_MARKERS = (b"stream", b"\\u", b"\0")
"""Every body with the key `stream` contains one of these: the key is plain, escaped, or in UTF-16."""

_RETRY_COUNT_HEADER = "x-stainless-retry-count"


@dataclass(frozen=True)
class RequestTraits:
    """The properties of a request."""

    is_stream: bool
    """True where a node sends the head of its response within seconds, whatever its engine does."""

    uses_event_ids: bool
    """True where the application reads the ids of events."""

    last_event_id: str
    """The id of the last event that the application has received."""

    read_timeout_s: float | None
    """How long the application waits for a response without streaming; None: without limit."""

    is_sdk_retry: bool
    """True where an SDK sends the request again after a failed attempt of its own."""


def parse_request(request: httpx.Request, body: bytes) -> RequestTraits:
    """Parse a request's headers, path and body."""
    headers, path = request.headers, request.url.path
    timeout: dict[str, Any] = request.extensions.get("timeout") or {}
    is_resumed = path.startswith(STREAMS_PATH)
    streams = is_resumed or (path in _STREAMING_PATHS and requests_stream(body))
    return RequestTraits(
        streams,
        _uses_ids(headers),
        headers.get("last-event-id", "") if is_resumed else "",
        None if streams else timeout.get("read"),
        headers.get(_RETRY_COUNT_HEADER, "0") not in ("", "0"),
    )


def requests_stream(body: bytes) -> bool:
    """Return True for a JSON object whose `stream` an engine parses as true, and which is no background request."""
    if not any(sign in body for sign in _STREAM_MARKERS):
        return False  # avoids parsing most bodies of requests without streaming
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False  # the node answers with an error
    return isinstance(fields, dict) and _is_true(fields.get("stream")) and not _is_true(fields.get("background"))


def _is_true(value: object) -> bool:
    """Parse a boolean as vLLM does (pydantic's lax mode)."""
    if isinstance(value, str):
        return value.lower() in _TRUE_TEXTS
    return value is True or (isinstance(value, (int, float)) and value == 1)


def _uses_ids(headers: httpx.Headers) -> bool:
    if (value := headers.get(EVENT_IDS_HEADER)) is not None:
        return value.strip().lower() in _TRUE_HEADER_VALUES
    accepted = headers.get("accept", "").partition(";")[0].strip().lower()
    return accepted == "text/event-stream" or "last-event-id" in headers
