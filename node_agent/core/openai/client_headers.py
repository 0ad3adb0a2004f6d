"""What a client's headers say about it: what it can use of a stream, which trace it is in, what an engine reads.

    X-Synkti-Event-Ids: true      the client keeps the ids of events, and resumes with the last one (`client/`, gateway)
    Last-Event-ID                 it does already
    Accept: text/event-stream     alone, as an EventSource sends it: the standard has it do so

Everybody else gets no `id:` line: vLLM's own benchmark and sglang's take every block of a stream for `data:`, and one
that begins with anything else ends the measurement. SDKs send `Accept: application/json`, curl and HTTP libraries
`*/*`.

What keeps an idle connection open has three forms, because no single one is harmless everywhere:

    a comment a second            to those who asked for ids: so they notice that a node froze
    a comment line every 15 s     to programs that parse SSE (SDKs: `X-Stainless-Lang`; `text/event-stream` accepted);
                                  no blank line: openai-go before March 2026 takes that for an event without data
    a blank line every 15 s       to all others: vllm bench glues a comment to the event behind it, and fails
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.contract.errors import RequestRejected
from node_agent.contract.names import EVENT_IDS_HEADER

REQUEST_ID = b"x-request-id"
MAX_REQUEST_ID_BYTES = 512
"""It is in every journal of a stream, in logs, and in answers' heads."""

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
"""Of a client's headers, what an engine is sent; all else is between the client and this node."""

_CLIENT_HEADERS = (b"allow", b"retry-after", b"content-disposition", b"endpoint-load-metrics")
"""Of an engine's headers, what its client is sent beside the content-type. Not `location`: it names the engine."""

_EVENT_STREAM = b"text/event-stream"
_TRUE = frozenset({b"true", b"1", b"yes"})


@dataclass(frozen=True)
class StreamReader:
    """How a client reads a stream.

    uses_ids: whether each event has an `id:` line, and comments may come; reconnects: whether it is an EventSource,
    which comes back by itself, after as long as a `retry:` says; parses: whether a comment line is harmless.
    """

    wants_event_ids: bool
    is_event_source: bool = False
    parses_sse: bool = False


def stream_reader(headers: Mapping[bytes, bytes]) -> StreamReader:
    """headers: by lower case names."""
    accepted = headers.get(b"accept", b"").lower()
    parses = _EVENT_STREAM in accepted or b"x-stainless-lang" in headers
    if (asked := headers.get(EVENT_IDS_HEADER.encode())) is not None:
        return StreamReader(asked.strip().lower() in _TRUE, parses_sse=parses)
    is_event_source = accepted.partition(b";")[0].strip() == _EVENT_STREAM or b"last-event-id" in headers
    return StreamReader(is_event_source, is_event_source, parses)


def request_id(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The client's own id of its request, None where it gave none. Raises RequestRejected (400)."""
    given = headers.get(REQUEST_ID)
    if given is not None and len(given) > MAX_REQUEST_ID_BYTES:
        raise RequestRejected(400, "invalid_request", f"X-Request-Id has {MAX_REQUEST_ID_BYTES} bytes at most.")
    return given or None


def engine_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The headers with which a client's request goes on to an engine, over the peer door or directly."""
    return {name.decode(): headers[name].decode("latin-1") for name in _ENGINE_HEADERS if name in headers}


def client_headers(headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """An engine's headers that its client is sent, beside the content-type."""
    return [(name, headers[name]) for name in _CLIENT_HEADERS if name in headers]
