"""`synkti gateway`: a proxy beside the application, so that any client in any language survives the loss of any node.

All that resumes is `synkti_client`; this is a door for those who cannot use an httpx transport. It holds no cluster
key: a client's own API key is passed on as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from typing import Annotated

import orjson
import typer

import synkti_client
from cli.errors import BadUsage
from cli.fleet_nodes import NoNodes, fronts_by_tag
from cli.options import Json
from cli.terminal import Terminal
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.contract.errors import openai_error
from node_agent.ports import DoorRequest
from synkti_client import httpx

MAX_BODY_BYTES = 64 * 1024 * 1024
DEFAULT_PORT = 8080
_NODES_EVERY_S = 2.0
_TAGS_EVERY_S = 30.0
_END_WITHIN_S = 5.0
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"host"})
_NOT_ASKED = _HOP_BY_HOP | {b"content-length", b"accept-encoding", b"expect"}
_NOT_ANSWERED = _HOP_BY_HOP | {b"content-length", b"content-type", b"date"}
_NO_TIMEOUT = dict.fromkeys(("connect", "read", "write", "pool"))


class Gateway:
    """Answers an application's requests over an AsyncContinuousTransport."""

    def __init__(self, transport: synkti_client.AsyncContinuousTransport) -> None:
        self.transport = transport

    async def __call__(self, request: DoorRequest) -> None:
        answering = asyncio.ensure_future(self._answer(request))
        request.when_gone(lambda: _cancel(answering))  # the node ends the generation with that connection
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def _answer(self, request: DoorRequest) -> None:
        asked = httpx.Request(
            request.method,
            f"http://synkti{request.target}",
            headers=[(key, value) for key, value in request.headers.items() if key not in _NOT_ASKED],
            content=request.body,
            extensions={"timeout": _NO_TIMEOUT},
        )
        try:
            response = await self.transport.handle_async_request(asked)
        except httpx.TransportError as error:
            message = f"No node of the fleet answers: {error or type(error).__name__}."
            request.respond(503, _error("no_node_answers", message), more=[(b"retry-after", b"1")])
            return
        try:
            await self._pass_on(request, response)
        finally:
            await response.aclose()

    async def _pass_on(self, request: DoorRequest, response: httpx.Response) -> None:
        content_type = response.headers.get("content-type", "application/octet-stream").encode("latin-1")
        kept = [(key, value) for key, value in response.headers.raw if key.lower() not in _NOT_ANSWERED]
        room = asyncio.Event()
        room.set()
        request.when_congested(lambda is_congested: room.clear() if is_congested else room.set())
        request.begin(response.status_code, content_type, kept)
        last = b""
        try:
            async for data in response.stream:  # type: ignore[union-attr] # of an async transport
                request.write(data)
                await room.wait()
        except httpx.TransportError as error:
            last = b"data: " + _error("stream_lost", f"{error}") + b"\n\n"
        request.end(last)


def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()


def _error(code: str, message: str) -> bytes:
    return orjson.dumps(openai_error(503, code, message))


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
    """Until SIGINT or SIGTERM, and what runs then has a moment to end."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    following = asyncio.create_task(_follow_nodes(transport, cluster, region))
    server = HttpServer(Gateway(transport), Limits(body_bytes=MAX_BODY_BYTES))
    await server.start(listener)
    host, port = listener.getsockname()[:2]
    url, nodes = f"http://{host}:{port}/v1", len(transport.nodes)
    if terminal.as_json:
        terminal.json_line({"base_url": url, "nodes": nodes})
    terminal.line(f"gateway: {url}, with {nodes} nodes to begin with")
    terminal.out.file.flush()
    await stop.wait()
    following.cancel()
    await server.close(_END_WITHIN_S)
    await transport.aclose()
