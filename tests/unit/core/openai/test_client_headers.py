"""Client headers: stream reading, request ids, forwarding."""

from __future__ import annotations

import pytest

from node_agent.contract.errors import RequestRejected
from node_agent.core.openai.client_headers import (
    MAX_REQUEST_ID_BYTES,
    StreamReader,
    client_headers,
    engine_headers,
    request_id,
    stream_reader,
)

EVENT_SOURCE = StreamReader(wants_event_ids=True, is_event_source=True, parses_sse=True)
OURS = StreamReader(wants_event_ids=True)
SDK = StreamReader(wants_event_ids=False, parses_sse=True)
PLAIN = StreamReader(wants_event_ids=False)


@pytest.mark.parametrize(
    ("headers", "reader"),
    [
        ({}, PLAIN),
        ({b"accept": b"*/*"}, PLAIN),  # curl, HTTP libraries, vllm bench serve
        ({b"accept": b"application/json"}, PLAIN),
        ({b"accept": b"application/json", b"x-stainless-lang": b"python"}, SDK),
        ({b"accept": b"text/event-stream"}, EVENT_SOURCE),
        ({b"accept": b"Text/Event-Stream; q=1"}, EVENT_SOURCE),
        ({b"accept": b"application/json, text/event-stream"}, SDK),
        ({b"accept": b"*/*", b"last-event-id": b"s/1"}, StreamReader(wants_event_ids=True, is_event_source=True)),
        ({b"x-synkti-event-ids": b"true"}, OURS),
        ({b"x-synkti-event-ids": b"TRUE", b"accept": b"*/*"}, OURS),
        ({b"x-synkti-event-ids": b"false", b"accept": b"text/event-stream"}, SDK),
    ],
    ids=str,
)
def test_ids_and_comments_are_sent_only_to_clients_that_can_read_them(
    headers: dict[bytes, bytes], reader: StreamReader
) -> None:
    assert stream_reader(headers) == reader


def test_the_requests_own_id_is_kept_within_a_bound() -> None:
    assert request_id({}) is request_id({b"x-request-id": b""}) is None
    assert request_id({b"x-request-id": b"mine"}) == b"mine"
    with pytest.raises(RequestRejected, match="512 bytes"):
        request_id({b"x-request-id": b"x" * (MAX_REQUEST_ID_BYTES + 1)})


def test_only_named_headers_are_forwarded() -> None:
    headers = {b"content-type": b"multipart/form-data; boundary=x", b"traceparent": b"00-1", b"cookie": b"secret"}
    more = {
        b"authorization": b"Bearer k",
        b"x-api-key": b"k",
        b"x-synkti-kv-from": b"i-0",
        b"x-data-parallel-rank": b"1",
        b"host": b"h",
        b"content-length": b"5",
    }
    assert engine_headers(headers | more) == {"content-type": "multipart/form-data; boundary=x", "traceparent": "00-1"}
    assert client_headers({b"allow": b"POST", b"location": b"http://127.0.0.1:8002/", b"server": b"uvicorn"}) == [
        (b"allow", b"POST")
    ]
