"""Test the errors that the HTTP server sends by itself."""

from __future__ import annotations

import json

import pytest

from node_agent.adapters.http_errors import (
    ADDRESS_FULL,
    BODY_DROPPED,
    NOT_ANSWERED,
    SERVER_FULL,
    encode_final_error,
    request_timeout,
)
from node_agent.core.http.request_head import ErrorResponse

DATE = b"date: Mon, 30 Nov 2026 03:00:00 GMT\r\n"


@pytest.mark.parametrize(
    ("error", "line", "may_retry"),
    [
        (SERVER_FULL, b"HTTP/1.1 503 Service Unavailable", True),
        (ADDRESS_FULL, b"HTTP/1.1 429 Too Many Requests", True),
        (BODY_DROPPED, b"HTTP/1.1 503 Service Unavailable", True),
        (NOT_ANSWERED, b"HTTP/1.1 500 Internal Server Error", False),
        (request_timeout(20.4), b"HTTP/1.1 408 Request Timeout", False),
    ],
)
def test_an_error_is_a_whole_response_that_ends_the_connection(
    error: ErrorResponse, line: bytes, may_retry: bool
) -> None:
    head, _, body = encode_final_error(error, DATE).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[:3] == [line, DATE.strip(), b"content-type: application/json"]
    assert lines[3] == b"content-length: %d" % len(body)
    assert lines[4:] == ([b"retry-after: 1"] if may_retry else []) + [b"connection: close"]
    content = json.loads(body)["error"]
    assert (content["code"], content["message"]) == (error.code, error.message)


def test_a_timeout_names_the_seconds() -> None:
    assert request_timeout(20.4).message == "The request was not whole after 20 s."
