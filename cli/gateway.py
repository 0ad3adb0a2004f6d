"""`synkti gateway`: a proxy beside the application, so that any client in any language survives the loss of any node.

`synkti_client` continues the streams; the gateway makes it available to clients that cannot use an httpx transport. It
has no cluster key: it forwards a client's own API key unchanged, and adds its own where a client sends none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import synkti_client
from cli.api_key import api_key_headers
from cli.errors import BadUsage
from cli.fleet_nodes import NoNodesFound, node_urls_by_tag
from cli.options import Json
from cli.terminal import Terminal
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.core.access.credentials import API_KEY, AUTHORIZATION
from node_agent.core.http.callers import CallerPolicy
from node_agent.core.streams.end_of_stream import error_event
from node_agent.ports import ServerRequest
from node_agent.runtime.common.responses import answer_error, error_body
from synkti_client import httpx

Headers = Sequence[tuple[bytes, bytes]]

MAX_BODY_BYTES = 64 * 1024 * 1024
DEFAULT_PORT = 8080
_NODES_INTERVAL_S = 2.0
_TAGS_INTERVAL_S = 30.0
_CLOSE_TIMEOUT_S = 5.0
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"host"})
_DROPPED_REQUEST_HEADERS = _HOP_BY_HOP | {b"content-length", b"accept-encoding", b"expect"}
_DROPPED_RESPONSE_HEADERS = _HOP_BY_HOP | {b"content-length", b"content-type", b"date"}
_FLEET = httpx.URL("http://synkti")
_MAX_SHOWN_CHARS = 100
_RETRY_HEADERS = ((b"retry-after", b"5"), (b"x-should-retry", b"false"))
"""SDKs would retry twice; the gateway has already retried."""

_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"*, authorization"),
    (b"access-control-max-age", b"600"),
)
_NO_TIMEOUT = dict.fromkeys(("connect", "read", "write", "pool"))


class Gateway:
    """Answers an application's requests with an AsyncContinuousTransport.

    policy: which callers are accepted; key: the headers with the API key of requests that have none.
    """

    def __init__(
        self,
        transport: synkti_client.AsyncContinuousTransport,
        policy: CallerPolicy | None = None,
        key: Mapping[str, str] | None = None,
    ) -> None:
        self.transport = transport
        self._caller_policy = policy or CallerPolicy()
        self._key = dict(key or {})
        transport.nodes.credentials = self._key  # for the list of nodes, before the first request

    async def __call__(self, request: ServerRequest) -> None:
        """Answer one request: 403 where the caller is not allowed, a page's preflight here, all others from a node."""
        if (fault := self._caller_policy.rejection_reason(request.headers)) is not None:
            answer_error(request, 403, "caller_not_allowed", fault)
            return
        page = self._page_headers(request)
        if request.method == "OPTIONS" and page:
            request.respond(204, b"", more=[*page, *_PREFLIGHT])
            return
        answering = asyncio.ensure_future(self._answer(request, page))
        request.when_gone(lambda: _cancel(answering))  # the node ends the generation with that connection
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    def _page_headers(self, request: ServerRequest) -> Headers:
        """Return the CORS headers for a page of an allowed origin."""
        origin = request.headers.get(b"origin", b"")
        if not origin or not self._caller_policy.is_allowed_origin(origin.decode("latin-1")):
            return ()
        return ((b"access-control-allow-origin", origin), (b"vary", b"origin"))

    async def _answer(self, request: ServerRequest, page: Headers) -> None:
        try:
            forwarded = _to_httpx(request, self._key)
        except (ValueError, httpx.InvalidURL) as error:
            message = f"The request's target cannot be read: {error}."
            answer_error(request, 400, "invalid_target", message, headers=page)
            return
        try:
            response = await self.transport.handle_async_request(forwarded)
        except httpx.LocalProtocolError as error:
            message = f"The request cannot be sent on: {error}."
            answer_error(request, 400, "invalid_request", message, headers=page)
            return
        except httpx.TransportError as error:
            code = "no_node_answers" if isinstance(error, synkti_client.NoNodeAnswers) else "request_lost"
            answer_error(request, 503, code, str(error) or type(error).__name__, headers=(*page, *_RETRY_HEADERS))
            return
        try:
            await self._forward(request, response, page)
        finally:
            await response.aclose()

    async def _forward(self, request: ServerRequest, response: httpx.Response, page: Headers) -> None:
        content_type = response.headers.get("content-type", "application/octet-stream").encode("latin-1")
        kept = [(key, value) for key, value in response.headers.raw if key.lower() not in _DROPPED_RESPONSE_HEADERS]
        room = asyncio.Event()
        room.set()
        request.when_congested(lambda is_congested: room.clear() if is_congested else room.set())
        request.begin(response.status_code, content_type, [*kept, *page])
        last = b""
        try:
            async for data in response.stream:  # type: ignore[union-attr] # of an async transport
                request.write(data)
                await room.wait()
        except httpx.TransportError as error:
            if not content_type.startswith(b"text/event-stream"):
                return  # without an end the server breaks off the connection: the body is incomplete
            message = str(error) or "The connection to the node broke, and this stream cannot be continued."
            last = b"\n\n" + error_event(request.path, error_body(request.path, 503, "stream_lost", message))
        request.end(last)


def _to_httpx(request: ServerRequest, key: Mapping[str, str]) -> httpx.Request:
    """Convert a request for the transport. key: added where the request has none. Raises ValueError and InvalidURL."""
    if not request.target.startswith("/"):
        raise ValueError(f"{request.target[:_MAX_SHOWN_CHARS]!r} is no path")
    has_key = AUTHORIZATION in request.headers or API_KEY in request.headers
    added = [] if has_key else [(name.encode(), value.encode()) for name, value in key.items()]
    return httpx.Request(
        request.method,
        _FLEET.copy_with(raw_path=request.target.encode("latin-1")),
        headers=[*((k, v) for k, v in request.headers.items() if k not in _DROPPED_REQUEST_HEADERS), *added],
        content=request.body,
        extensions={"timeout": _NO_TIMEOUT},
    )


def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()


async def _follow_nodes(
    transport: synkti_client.AsyncContinuousTransport, read_tags: Callable[[], list[str]] | None
) -> None:
    """Refresh the list of nodes from the nodes; from their tags less often, and when no node answers."""
    read_tags_at = time.monotonic() + _TAGS_INTERVAL_S
    while True:
        await asyncio.sleep(_NODES_INTERVAL_S)
        answered = await transport.refresh()
        if read_tags is not None and (not answered or time.monotonic() >= read_tags_at):
            read_tags_at = time.monotonic() + _TAGS_INTERVAL_S
            with contextlib.suppress(NoNodesFound):  # without an answer of EC2 the list stays
                transport.nodes.replace(await asyncio.to_thread(read_tags))


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
    tls: Annotated[bool, typer.Option("--tls", help="Call the nodes that are found by their tags with https.")] = False,
    ca_bundle: Annotated[
        Path | None,
        typer.Option(help="A PEM file of the authorities to trust, in place of the system's.", show_default=False),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(help="The name in the nodes' certificates, if it is not their address.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; the loopback by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for any free one.")] = DEFAULT_PORT,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A public name under which it may be called; may be repeated.", show_default=False),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages that may call it; may be repeated.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a proxy beside your application: stock OpenAI clients keep their streams when a node is interrupted.

    It runs until Ctrl-C. With --json the line with its address is a JSON object. It answers programs, and web pages of
    the origins given, such as http://localhost:3000. It adds the key of SYNKTI_API_KEY, or of OPENAI_API_KEY, to
    requests that have none.

    \b
    Examples:
      synkti gateway --cluster synkti      # then base_url="http://127.0.0.1:8080/v1" in any OpenAI client
      synkti gateway --node http://10.0.1.5:8000 --node http://10.0.2.7:8000
      synkti gateway --cluster synkti --tls --ca-bundle ca.pem --server-name llm.example.com

    \f

    Raises:
        BadUsage: no node is given, or a URL or the CA bundle is invalid.
    """
    read_tags = partial(node_urls_by_tag, cluster, region, tls=tls) if cluster else None
    fronts = [*(node or ()), *(read_tags() if read_tags else ())]
    checks = _tls(ca_bundle, server_name)
    try:
        transport = synkti_client.async_transport(fronts, discovery=discovery, tls=checks)
    except ValueError as error:
        raise BadUsage(f"{error}", "--cluster NAME finds nodes by their tags") from error
    listener = bind(host, port, "gateway")
    callers = CallerPolicy(tuple(allow_host or ()), tuple(allow_origin or ()))
    asyncio.run(_serve(transport, callers, read_tags, listener, Terminal(as_json)))


def _tls(ca_bundle: Path | None, server_name: str | None) -> synkti_client.Tls | None:
    """Return how https nodes are checked; None for the defaults. Raises BadUsage for a bundle that cannot be used."""
    if ca_bundle is None and server_name is None:
        return None
    checks = synkti_client.Tls(ca_bundle, server_name)
    try:
        checks.context()
    except ValueError as error:
        raise BadUsage(f"{error}", "--ca-bundle is a file of certificates in PEM") from error
    return checks


class _StatusLines(logging.Handler):
    """Prints what `synkti_client` logs."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.INFO)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.status(f"gateway: {record.getMessage()}")


def log_continuations(terminal: Terminal) -> None:
    """Print a line for each stream that outlives a node; not with `--json`."""
    log = logging.getLogger("synkti_client")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [_StatusLines(terminal)]


async def _serve(
    transport: synkti_client.AsyncContinuousTransport,
    callers: CallerPolicy,
    read_tags: Callable[[], list[str]] | None,
    listener: socket.socket,
    terminal: Terminal,
) -> None:
    """Serve until SIGINT or SIGTERM, then give running requests a moment to end."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    following = asyncio.create_task(_follow_nodes(transport, read_tags))
    server = HttpServer(Gateway(transport, callers, api_key_headers(os.environ)), Limits(body_bytes=MAX_BODY_BYTES))
    await server.start(listener)
    host, port = listener.getsockname()[:2]
    url, nodes = f"http://{host}:{port}/v1", len(transport.nodes)
    if terminal.as_json:
        terminal.json_line({"base_url": url, "nodes": nodes})
    terminal.line(f"gateway: {url}, with {nodes} nodes to begin with")
    terminal.out.file.flush()
    log_continuations(terminal)
    await stop.wait()
    following.cancel()
    await server.close(_CLOSE_TIMEOUT_S)
    await transport.aclose()
