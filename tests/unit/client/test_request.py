"""Test how the client reads a request: which is a stream, and what else it has to know of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from synkti_client import _request, httpx
from synkti_client._request import requests_stream
from tests.unit.client.scripted import WHOLE


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": None},
        {"stream": False},
        {"stream": 0},
        {"stream": "false"},
        {"stream": "off"},
        {"stream": []},
        {"stream": 2},
        {"user": "stream"},
        {"stream_options": {"include_usage": True}},
        {"tools": [{"function": {"parameters": {"properties": {"stream": {"type": "string"}}}}}]},
        {"metadata": {"stream": True}},
        {"stream": True, "background": True},
    ],
)
def test_a_body_that_only_mentions_stream_requests_none(fields: dict[str, Any]) -> None:
    assert not requests_stream(json.dumps({**WHOLE, **fields}).encode())


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "yes", "on", "t", "y", "1"])
def test_stream_is_read_as_an_engine_reads_it(value: object) -> None:
    assert requests_stream(json.dumps({**WHOLE, "stream": value}, indent=1).encode())


@pytest.mark.parametrize(
    "body", [b'{"\\u0073tream":true}', b'\xef\xbb\xbf{"stream":true}', '{"stream":true}'.encode("utf-16")]
)
def test_stream_in_another_encoding_is_read(body: bytes) -> None:
    assert requests_stream(body)


@pytest.mark.parametrize(
    "body", [b"", b"stream", b'["stream"]', b'{"stream":true', b'{"stream":' + b"[" * 100_000, b"\xff stream"]
)
def test_an_unreadable_body_requests_no_stream(body: bytes) -> None:
    assert not requests_stream(body)


def test_requests_are_read_once() -> None:
    request = httpx.Request("POST", "http://synkti/v1/chat/completions", extensions={"timeout": {"read": 5.0}})
    parsed = _request.parse_request(request, b'{"stream": true}')
    assert (parsed.is_stream, parsed.read_timeout_s) == (True, None)
    assert (parsed.uses_event_ids, parsed.is_sdk_retry) == (False, False)
