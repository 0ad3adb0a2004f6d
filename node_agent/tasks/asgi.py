"""What both doors need of ASGI: bodies with a bound, answers, and uvicorn on a socket that is already ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import orjson
import uvicorn

from node_agent.contract.errors import ConfigurationError, RequestRejected, openai_error

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
_BACKLOG = 4096


class ClientGone(Exception):
    """The client closed its connection before its request was whole: nobody is there to be answered."""


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The request's whole body. Raises RequestRejected (413) as soon as it is known to be too large."""
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > max_bytes:
        raise too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        part = event.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(part)
        if not event.get("more_body"):
            return b"".join(parts)


def too_large(max_bytes: int) -> RequestRejected:
    return RequestRejected(413, "request_too_large", f"The body is larger than {max_bytes} bytes.")


def header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


@contextlib.asynccontextmanager
async def on_disconnect(receive: Receive, gone: Callable[[], None]) -> AsyncIterator[None]:
    """Call `gone` when the client closes its connection while the block runs. The body must have been read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


async def respond(
    send: Send, status: int, body: bytes, content_type: bytes = JSON, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    lines = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: Mapping[str, Any], status: int = 200) -> None:
    await respond(send, status, orjson.dumps(value))


async def respond_error(
    send: Send, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
) -> None:
    """An error in OpenAI's form; with Retry-After (whole seconds, at least 1) where another try makes sense."""
    headers = [] if retry_after_s is None else [(b"retry-after", str(max(1, round(retry_after_s))).encode())]
    await respond(send, status, orjson.dumps(openai_error(status, code, message, param)), JSON, headers)


class DoorServer(uvicorn.Server):
    """uvicorn without its signal handlers: the agent decides when a door closes."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int, purpose: str) -> socket.socket:
    """A listening socket. Raises ConfigurationError that says what is in the way."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError([f"the {purpose} cannot listen on {host}:{port}: {error.strerror}"]) from error
    listener.listen(_BACKLOG)
    return listener


def door(app: App, drain_s: float, protocol: type[asyncio.Protocol] | None = None) -> DoorServer:
    """A server for `app`. drain_s: how long open connections may take to end once it is told to close.

    protocol: one made of uvicorn's own, where more than HTTP comes to the door.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol or "httptools",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(drain_s),
        backlog=_BACKLOG,
    )
    return DoorServer(config)
