"""The HTTP/1.1 server of the client API and the peer API: listens, bounds requests, and ends what takes too long.

Why not a library: every token of every client passes here. A general server costs a task step, two coroutines and three
dictionaries for each of them, more than the whole of what it carries (docs/decisions/0008, docs/performance.md). llhttp
(httptools) parses; the rest is here: connections with bounds, one request at a time on each.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from email.utils import formatdate
from typing import Any, Protocol

import orjson

from node_agent.adapters.http_errors import PLAIN_HTTP, encode_final_error
from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server_connection import ServerConnection
from node_agent.adapters.http_server_interface import Connection
from node_agent.adapters.http_tls_listener import TlsListener
from node_agent.contract.errors import ConfigurationError, route_error
from node_agent.core.http.body_budget import SMALL_BYTES, BodyBudget, HeldBody
from node_agent.core.http.connection_limits import ConnectionLimits, ConnectionSlot
from node_agent.ports import AlternateProtocol, ServerRequest

_BACKLOG = 4096
_SWEEP_EVERY_S = 1.0
_UNSENT_BYTES = 128 * 1024
"""In the kernel, for one connection: beyond it the transport's own bounds apply, which this process can observe."""

_LATER_S = 30.0
"""After `unread_s` and this time, the kernel closes a connection by itself, also one with too little unread data to be
observed here.
"""

_KEEPALIVE_S = 30
"""Between the kernel's keep-alive probes of a silent client."""

_log = logging.getLogger(__name__)

Handle = Callable[[ServerRequest], Coroutine[Any, Any, None]]


class ClientIdentities(Protocol):
    """Decides which of a TLS server's clients are accepted, by their certificates."""

    def identify(self, transport: asyncio.BaseTransport) -> str | None:
        """Return who has connected; None for a client that is rejected."""
        ...

    def close_rejected(self) -> None:
        """Abort the connections of clients that are not accepted any more."""
        ...


class HeadCheck(Protocol):
    """Decides which requests are refused by their heads alone, before their bodies are read."""

    def is_refused(self, method: str, target: str, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request is refused, whatever its body is."""
        ...

    async def refuse(self, request: ServerRequest) -> None:
        """Answer such a request. Its body is empty, and it is refused also where it would not be any more."""
        ...


def _is_form(request: ServerRequest) -> bool:
    """Return whether the body is a form with files, which is never parsed as a document."""
    return request.headers.get(b"content-type", b"").startswith(b"multipart/") and request.body.startswith(b"--")


def _bound_sockets(listener: socket.socket, unread_s: float) -> None:
    """Set options that connections inherit: the kernel, too, holds little for a client that does not read.

    unread_s: seconds; with _LATER_S, how long the kernel holds it.
    """
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int((unread_s + _LATER_S) * 1000), 2**31 - 1)),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S),
    ):
        listener.setsockopt(level, option, value)


def bind(host: str, port: int, purpose: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return a listening socket. Raises ConfigurationError that names the obstacle."""
    listener = socket.socket(socket.AF_INET, kind)
    if kind is socket.SOCK_STREAM:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError([f"the {purpose} cannot listen on {host}:{port}: {error.strerror}"]) from error
    if kind is socket.SOCK_STREAM:
        listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


class HttpServer:
    """One HTTP server.

    handle: answers a request, in a task of its own.
    alternate: another protocol that connections may begin.
    bodies: the budget shared with other servers.
    heads: refuses requests by their heads.
    on_refused: called with one word (`code` of the error, `unread`, `pipelined`) for each connection that was refused
    or cut off.
    """

    def __init__(
        self,
        handle: Handle,
        limits: Limits | None = None,
        alternate: AlternateProtocol | None = None,
        *,
        bodies: BodyBudget | None = None,
        heads: HeadCheck | None = None,
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        self.limits = limits = limits or Limits()
        self.alternate = alternate
        self.bodies = bodies or BodyBudget(limits.bodies_bytes)
        self.connections: set[Connection] = set()
        self.is_closing = False
        self.is_over = False  # connections that the loop accepted just before are still made
        self.now = 0.0  # loop time of the last sweep, good enough for what takes seconds
        self.date = b""
        self._connection_limits = ConnectionLimits(limits.connections, limits.connections_per_address, limits.reserved)
        self._handle = handle
        self._heads = heads
        self._on_refused = on_refused
        self._counting = asyncio.Semaphore(1)  # documents whose values are counted at once
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | TlsListener | None = None
        self._tls: Callable[[], ssl.SSLContext] | None = None
        self._identities: ClientIdentities | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    def use_tls(self, context: Callable[[], ssl.SSLContext], identities: ClientIdentities | None = None) -> None:
        """Serve TLS only, from `start` on.

        context: returns the newest context, for each new connection; identities: which clients are accepted, None for
        all.
        """
        self._tls, self._identities = context, identities

    async def start(self, listener: socket.socket) -> None:
        """Serve a socket that already listens."""
        self._sweep()
        _bound_sockets(listener, self.limits.unread_s)
        if self._tls is not None:
            self._server = TlsListener(listener, self._tls, self, self.limits.unread_s)
            self._server.start()
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ServerConnection(self), sock=listener, backlog=_BACKLOG)

    @property
    def busy(self) -> int:
        """The number of requests being answered."""
        return len(self._tasks)

    # what connections need

    def add(self, connection: Connection, address: str) -> ConnectionSlot:
        """Add a new connection; return its slot."""
        self.connections.add(connection)
        place = self._connection_limits.acquire(address)
        if place is ConnectionSlot.NONE:
            self.count_refusal("too_many_connections")
        return place

    def admit(self, address: str) -> ServerConnection | None:
        """Return a new connection that has a slot before its handshake; None where there is no slot."""
        connection = ServerConnection(self)
        return connection if connection.admit(address) and not self.is_over else None

    def identify(self, transport: asyncio.BaseTransport) -> str | None:
        """Return who has connected, "" where clients have no identities; None for a client that is rejected."""
        return "" if self._identities is None else self._identities.identify(transport)

    def plain_http_error(self) -> bytes:
        """Return the response to a client that begins without TLS."""
        return encode_final_error(PLAIN_HTTP, self.date)

    def remove(self, connection: Connection, address: str) -> None:
        """Remove a connection that has ended."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._connection_limits.release(address, connection.slot)

    def reserve_body(self, body: HeldBody, size: int) -> bool:
        """Return whether a body has room to grow to `size` bytes, and reserve them.

        Unfinished bodies may be aborted for it.
        """
        gone = self.bodies.grow(body, size, self.now)
        for victim in gone or ():
            victim.abort()
        return gone is not None

    def count_refusal(self, code: str) -> None:
        """Count a refused or cut-off connection."""
        if self._on_refused is not None:
            self._on_refused(code)

    def is_refused(self, method: str, target: str, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request is refused by its head alone."""
        return self._heads is not None and self._heads.is_refused(method, target, headers)

    def run(self, request: ServerRequest, *, is_refused: bool = False) -> asyncio.Task[None]:
        """Answer a request in the background. is_refused: with the refusal that its head decided."""
        answer = (
            self._handle if self.limits.document is None or len(request.body) <= SMALL_BYTES else self._check_document
        )
        if is_refused and self._heads is not None:
            answer = self._heads.refuse
        task = asyncio.get_running_loop().create_task(answer(request))
        self._tasks.add(task)  # the loop holds tasks weakly
        task.add_done_callback(self._on_task_done)
        return task

    async def _check_document(self, request: ServerRequest) -> None:
        """Answer a request with a large body, after checking what parsing it as a document costs."""
        bounds, body = self.limits.document, request.body
        if bounds is not None and not (_is_form(request) or bounds.passes_quick_check(body)):
            async with self._counting:
                fits = await asyncio.to_thread(bounds.fits, body)
            if request.is_gone:
                return
            if not fits:
                message = f"The body has more than {bounds.values} values, {bounds.containers} lists and objects or"
                message += f" {bounds.strings} texts; send less of it."
                self.count_refusal("document_too_large")
                request.respond(413, orjson.dumps(route_error(request.path, 413, "document_too_large", message)))
                return
        del body  # or it would be held for as long as the answer takes, whatever becomes of the request's own
        await self._handle(request)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request ended with a bug", exc_info=error)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
        for connection in list(self.connections):
            connection.check(self.now)
        if self._identities is not None:
            self._identities.close_rejected()
        self._sweeping = loop.call_later(_SWEEP_EVERY_S, self._sweep)

    async def close(self, within_s: float) -> None:
        """Accept nothing new, let running requests end within a time, and cut off the rest."""
        self.is_closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.end_when_idle()
        running = {task for task in self._tasks if task is not asyncio.current_task()}
        if running:
            await asyncio.wait(running, timeout=within_s)
        self.abort()
        await asyncio.sleep(0)  # the turn in which the sockets close

    def abort(self) -> None:
        """End everything now, in the middle of a response."""
        self.is_closing = self.is_over = True
        if isinstance(self._server, TlsListener):
            self._server.abort()
        elif self._server is not None:
            self._server.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
