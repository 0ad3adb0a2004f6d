"""`synkti gateway`: a proxy beside the application, so that any client in any language survives the loss of any node.

All that resumes is `synkti_client`; this is a door for those who cannot use an httpx transport. It holds no cluster
key: a client's own API key is passed on as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

import typer
import uvicorn

import synkti_client
from cli.errors import BadUsage
from cli.fleet_nodes import NoNodes, fronts_by_tag
from cli.options import Json
from cli.terminal import Terminal
from node_agent.tasks.asgi import bind
from synkti_client import httpx

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 64 * 1024 * 1024
DEFAULT_PORT = 8080
_NODES_EVERY_S = 2.0
_TAGS_EVERY_S = 30.0
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"})


class Gateway:
    """An ASGI application over an AsyncContinuousTransport."""

    def __init__(self, transport: synkti_client.AsyncContinuousTransport) -> None:
        self.transport = transport

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _body(receive)
        if body is None:
            return
        if len(body) > MAX_BODY_BYTES:
            await _fail(send, 413, "request_too_large", f"The body is larger than {MAX_BODY_BYTES} bytes.")
            return
        answering = asyncio.create_task(self._answer(scope, body, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            answering.cancel()  # the client is gone: the node ends the generation with this connection
            with contextlib.suppress(asyncio.CancelledError):
                await answering

    async def _answer(self, scope: Message, body: bytes, send: Send) -> None:
        query = scope["query_string"].decode("latin-1")
        url = f"http://synkti{scope['path']}" + (f"?{query}" if query else "")
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        request = httpx.Request(
            scope["method"],
            url,
            headers=[(k, v) for k, v in headers if k not in _HOP_BY_HOP and k != "accept-encoding"],
            content=body,
            extensions={"timeout": {"connect": None, "read": None, "write": None, "pool": None}},
        )
        try:
            response = await self.transport.handle_async_request(request)
        except httpx.TransportError as error:
            await _fail(send, 503, "no_node_answers", f"No node of the fleet answers: {error or type(error).__name__}.")
            return
        kept = [(k, v) for k, v in response.headers.raw if k.decode("latin-1").lower() not in _HOP_BY_HOP]
        await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
        last = b""
        try:
            async for data in response.stream:  # type: ignore[union-attr] # of an async transport
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except httpx.TransportError as error:
            last = b"data: " + _error("stream_lost", f"{error}") + b"\n\n"
        finally:
            await response.aclose()
        await send({"type": "http.response.body", "body": last})


async def _body(receive: Receive) -> bytes | None:
    """The request's body, a little more than MAX_BODY_BYTES at most; None where its client is gone."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if not message.get("more_body") or size > MAX_BODY_BYTES:
            return b"".join(parts)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _fail(send: Send, status: int, code: str, message: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": _error(code, message)})


def _error(code: str, message: str) -> bytes:
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    return json.dumps(body).encode()


async def _follow_nodes(
    transport: synkti_client.AsyncContinuousTransport, cluster: str | None, region: str | None
) -> None:
    """Keep the list of nodes fresh, from the nodes themselves; from the tags seldom, or when no node answers."""
    read_tags_at = time.monotonic() + _TAGS_EVERY_S
    while True:
        await asyncio.sleep(_NODES_EVERY_S)
        answered = await transport.refresh()
        if cluster is not None and (not answered or time.monotonic() >= read_tags_at):
            read_tags_at = time.monotonic() + _TAGS_EVERY_S
            with contextlib.suppress(NoNodes):  # an EC2 that does not answer changes nothing
                transport.nodes.replace(await asyncio.to_thread(fronts_by_tag, cluster, region))


def gateway(
    node: Annotated[
        list[str] | None, typer.Option(help="URL of a node, http://host:port; may be repeated.", show_default=False)
    ] = None,
    discovery: Annotated[
        str | None, typer.Option(help="A URL that lists nodes as any node's /v1/synkti/nodes.", show_default=False)
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Find nodes by the EC2 tags of this cluster.", show_default=False)
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="The cluster's region, if not the configured one.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="Where applications call it; the loopback by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """A proxy beside your application: stock OpenAI clients go on when the node they stream from is taken away.

    It runs until Ctrl-C. With --json the line that says where it listens is a JSON object.

    \b
    Examples:
      synkti gateway --cluster synkti      # then base_url="http://127.0.0.1:8080/v1" in any OpenAI client
      synkti gateway --node http://10.0.1.5:8000 --node http://10.0.2.7:8000
    """
    fronts = [*(node or ()), *(fronts_by_tag(cluster, region) if cluster else ())]
    try:
        transport = synkti_client.async_transport(fronts, discovery=discovery)
    except ValueError as error:
        raise BadUsage(f"{error}", "--cluster NAME finds nodes by their tags") from error
    listener = bind(host, port, "gateway")
    asyncio.run(_serve(transport, cluster, region, listener, Terminal(as_json)))


async def _serve(
    transport: synkti_client.AsyncContinuousTransport,
    cluster: str | None,
    region: str | None,
    listener: socket.socket,
    terminal: Terminal,
) -> None:
    config = uvicorn.Config(
        Gateway(transport), lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
    following = asyncio.create_task(_follow_nodes(transport, cluster, region))
    host, port = listener.getsockname()[:2]
    url, nodes = f"http://{host}:{port}/v1", len(transport.nodes)
    if terminal.as_json:
        terminal.json_line({"base_url": url, "nodes": nodes})
    terminal.line(f"gateway: {url}, with {nodes} nodes to begin with")
    terminal.out.file.flush()
    try:
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        following.cancel()
