"""The errors that an HTTP server sends by itself, each as the last response on its connection."""

from __future__ import annotations

import orjson

from node_agent.adapters.http_request import STATUS
from node_agent.contract.errors import openai_error
from node_agent.core.http.request_head import ErrorResponse

SERVER_FULL = ErrorResponse(503, "too_many_connections", "This node has no connection to spare; try another node.")
ADDRESS_FULL = ErrorResponse(429, "too_many_connections", "Your address has as many connections here as one may have.")
BODY_DROPPED = ErrorResponse(503, "too_many_bodies", "This node needs the room of your unfinished request; try again.")
PLAIN_HTTP = ErrorResponse(400, "tls_required", "This port takes TLS only: use https:// in place of http://.")
NOT_ANSWERED = ErrorResponse(500, "internal_error", "This node could not answer; the reason is in its log.")


def request_timeout(took_s: float) -> ErrorResponse:
    """Return the error of a request that was not complete after `took_s` seconds."""
    return ErrorResponse(408, "request_timeout", f"The request was not whole after {took_s:.0f} s.")


def encode_final_error(error: ErrorResponse, date: bytes) -> bytes:
    """Return the bytes of an error's response, which announces the connection's end. date: the line of the header."""
    body = orjson.dumps(openai_error(error.status, error.code, error.message))
    retry_after = b"retry-after: 1\r\n" if error.status in (429, 503) else b""
    lines = b"content-type: application/json\r\ncontent-length: %d\r\n%bconnection: close\r\n\r\n"
    return b"".join((STATUS[error.status], date, lines % (len(body), retry_after), body))
