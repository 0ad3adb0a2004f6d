"""Read a client's headers: how it reads a stream, its request id, and which headers to forward to an engine.

    X-Synkti-Event-Ids: true      the client stores event ids, and resumes with the last one (`client/`, gateway)
    Last-Event-ID                 the client resumes
    Accept: text/event-stream     alone, as the standard requires of an EventSource

All other clients get no `id:` line: the benchmarks of vLLM and sglang parse every block of a stream as `data:`, and a
block that starts with anything else ends the measurement. SDKs send `Accept: application/json`, curl and HTTP libraries
`*/*`.

Keepalives of an idle connection have three forms, because no single one is harmless everywhere:

    a comment a second            to clients that requested ids, so that they detect a frozen node
    a comment line every 15 s     to programs that parse SSE (SDKs: `X-Stainless-Lang`; `text/event-stream` accepted);
                                  no blank line: openai-go before March 2026 parses that as an event without data
    a blank line every 15 s       to all others: vllm bench joins a comment to the next event, and fails
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.contract.errors import RequestRejected
from node_agent.contract.names import EVENT_IDS_HEADER

REQUEST_ID = b"x-request-id"
MAX_REQUEST_ID_BYTES = 512
"""The id is in every journal of a stream, in logs, and in response headers."""

_ENGINE_HEADERS = (
    b"content-type",
    b"traceparent",
    b"tracestate",
    b"baggage",
    b"anthropic-version",
    b"anthropic-beta",
    b"openai-beta",
    b"endpoint-load-metrics-format",
)
"""Client headers that are forwarded to an engine; the others concern only the client and this node."""

_CLIENT_HEADERS = (b"allow", b"retry-after", b"content-disposition", b"endpoint-load-metrics")
"""Engine headers that are forwarded to the client, beside the content-type. Not `location`: it names the engine."""

_EVENT_STREAM = b"text/event-stream"
_TRUE = frozenset({b"true", b"1", b"yes"})


@dataclass(frozen=True)
class StreamReader:
    """How a client reads a stream.

    wants_event_ids: each event has an `id:` line, and comments are allowed. is_event_source: the client is an
    EventSource, which reconnects by itself after the time in `retry:`. parses_sse: a comment line is harmless.
    """

    wants_event_ids: bool
    is_event_source: bool = False
    parses_sse: bool = False


def stream_reader(headers: Mapping[bytes, bytes]) -> StreamReader:
    """Determine how a client reads a stream. headers: by lower case names."""
    accepted = headers.get(b"accept", b"").lower()
    parses = _EVENT_STREAM in accepted or b"x-stainless-lang" in headers
    if (requested := headers.get(EVENT_IDS_HEADER.encode())) is not None:
        return StreamReader(requested.strip().lower() in _TRUE, parses_sse=parses)
    is_event_source = accepted.partition(b";")[0].strip() == _EVENT_STREAM or b"last-event-id" in headers
    return StreamReader(is_event_source, is_event_source, parses)


def request_id(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the client's own request id, None where it sent none. Raises RequestRejected (400)."""
    given = headers.get(REQUEST_ID)
    if given is not None and len(given) > MAX_REQUEST_ID_BYTES:
        raise RequestRejected(400, "invalid_request", f"X-Request-Id has {MAX_REQUEST_ID_BYTES} bytes at most.")
    return given or None


def engine_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the headers to forward to an engine, through the peer API or directly."""
    return {name.decode(): headers[name].decode("latin-1") for name in _ENGINE_HEADERS if name in headers}


def client_headers(headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the engine's headers to forward to the client, beside the content-type."""
    return [(name, headers[name]) for name in _CLIENT_HEADERS if name in headers]
