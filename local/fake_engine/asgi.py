"""ASGI helpers of the fake engine: read requests as vLLM does, send its responses and errors."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from local.fake_engine.answers import BadRequest
from local.fake_engine.events import MESSAGES, RESPONSES
from local.fake_engine.faults import DONE
from local.fake_engine.triggers import VllmError
from node_agent.core.common.lax_values import read_bool, read_float, read_int

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LAX_FIELDS: dict[Callable[[object], object], tuple[str, ...]] = {
    read_bool: ("stream", "echo", "logprobs", "return_token_ids", "ignore_eos", "include_stop_str_in_output"),
    read_int: ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "min_tokens", "top_logprobs"),
    read_float: ("temperature",),
}


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client is gone. The request's body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


def request_id(scope: Scope) -> str | None:
    """Return the request's X-Request-Id, None if it has none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == b"x-request-id"), None)


def with_request_id(scope: Scope, send: Send) -> Send:
    """Add the request's id to its response, as vLLM does with --enable-request-id-headers."""
    header = (b"x-request-id", (request_id(scope) or secrets.token_hex(16)).encode("latin-1"))

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], header]
        await send(message)

    return sent


def check_content_type(scope: Scope) -> None:
    """Reject a body that is not JSON. vLLM also rejects a body without a type, which is accepted here."""
    given = next((value for key, value in scope["headers"] if key == b"content-type"), b"application/json")
    if given.lower().partition(b";")[0] != b"application/json":
        raise BadRequest("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed")


def read_body(raw: bytes) -> dict[str, Any]:
    """Parse a body and convert its fields as vLLM's pydantic does. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"1 validation error:\n  {{'type': 'json_invalid', 'msg': '{error}'}}", "body") from error
    if not isinstance(body, dict):
        raise BadRequest("1 validation error:\n  {'type': 'model_attributes_type'}", "body")
    for read, names in _LAX_FIELDS.items():
        for name in names:
            if body.get(name) is None or (name == "logprobs" and "prompt" in body):
                continue
            try:
                body[name] = read(body[name])
            except ValueError as error:
                raise BadRequest(f"1 validation error:\n  {{'loc': 'body.{name}', 'msg': '{error}'}}", name) from error
    stop, options = body.get("stop") or [], body.get("stream_options") or {}
    if not isinstance(stop, str) and not (isinstance(stop, list) and all(isinstance(text, str) for text in stop)):
        raise BadRequest("1 validation error:\n  {'loc': 'body.stop'}", "stop")
    if not isinstance(options, dict):
        raise BadRequest("1 validation error:\n  {'loc': 'body.stream_options'}", "stream_options")
    try:
        body["stream_options"] = {name: value and read_bool(value) for name, value in options.items()}
    except ValueError as error:
        raise BadRequest("1 validation error:\n  {'loc': 'body.stream_options'}", "stream_options") from error
    return body


async def start_stream(send: Send) -> None:
    """Send the head of a stream."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_generation_error(send: Send, error: VllmError, scope: Scope, *, stream: bool) -> None:
    """Send an error that vLLM finds when it begins to generate: by then a stream has its head."""
    body = {"message": error.message, "type": error.kind, "param": error.param, "code": error.status}
    if not stream:
        await send_json(send, {"error": body}, error.status)
        return
    await start_stream(send)
    if scope["path"] in (RESPONSES, MESSAGES):
        last = b"event: error\ndata: %b\n\n" % orjson.dumps({"type": "error", "error": body})
    else:
        last = b"data: %b\n\n" % orjson.dumps({"error": body}) + DONE
    await send({"type": "http.response.body", "body": last})


async def send_json(send: Send, value: Any, status: int = 200, *more: tuple[bytes, bytes]) -> None:
    """Send a response with the value as its body. more: further headers."""
    await respond(send, status, orjson.dumps(value), b"application/json", *more)


async def send_error(send: Send, status: int, kind: str, message: str, param: str | None) -> None:
    """Send an error as vLLM formats it. kind: its `type`; param: the invalid field, None without one."""
    await send_json(send, {"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


async def respond(send: Send, status: int, body: bytes, content_type: bytes, *more: tuple[bytes, bytes]) -> None:
    """Send a whole response. content_type: empty for none; more: further headers."""
    headers = [(b"content-type", content_type)] if content_type else []
    headers += [(b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
