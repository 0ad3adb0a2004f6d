"""The doors' HTTP/1.1 server: listens, bounds what comes, and ends what takes too long.

Why not a library: every token of every client passes here. A general server costs a task step, two coroutines and
three dictionaries for each of them, more than the whole of what it carries (docs/decisions/0008, docs/performance.md).
Parsing is llhttp's (httptools); this is what remains: connections with bounds, one request at a time on each.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from node_agent.adapters.http_door import DoorConnection
from node_agent.contract.errors import ConfigurationError
from node_agent.ports import DoorRequest, Other

_BACKLOG = 4096
_SWEEP_EVERY_S = 1.0
_log = logging.getLogger(__name__)

Handle = Callable[[DoorRequest], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Limits:
    """Of a door. What is beyond them is answered with an error that says so, or, where nobody listens, cut off."""

    body_bytes: int = 16 * 1024 * 1024
    """Of one request."""

    head_bytes: int = 64 * 1024
    """Of one request: its line and its headers."""

    connections: int = 8_192
    """At once; more get a 503."""

    pipelined: int = 16
    """Requests that a client sends on one connection before it has the answer to the first."""

    idle_s: float = 75.0
    """How long a connection may wait for its next request."""

    stalled_s: float = 20.0
    """How long a request's head may take, and how long its body may stop, before it is given up."""

    request_s: float = 600.0
    """How long a request may take to arrive."""


def bind(host: str, port: int, purpose: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A listening socket. Raises ConfigurationError that says what is in the way."""
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
    """handle: answers a request; it runs as a task of its own. other: what else may come to the door."""

    def __init__(self, handle: Handle, limits: Limits | None = None, other: Other | None = None) -> None:
        self.limits = limits or Limits()
        self.other = other
        self.connections: set[DoorConnection] = set()
        self.is_closing = False
        self.now = 0.0  # loop time of the last sweep, good enough for what takes seconds
        self.date = b""
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve what comes to a socket that already listens."""
        self._sweep()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: DoorConnection(self), sock=listener, backlog=_BACKLOG, ssl=tls)

    @property
    def busy(self) -> int:
        """Requests that are being answered."""
        return len(self._tasks)

    def is_over(self, connections: int) -> bool:
        """Whether there are more connections than so many; the one that asks is counted."""
        return len(self.connections) > connections

    def run(self, request: DoorRequest) -> asyncio.Task[None]:
        """Answer a request in the background."""
        task = asyncio.get_running_loop().create_task(self._handle(request))
        self._tasks.add(task)  # the loop holds tasks weakly
        task.add_done_callback(self._ran)
        return task

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request ended with a bug", exc_info=error)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
        for connection in list(self.connections):
            connection.check(self.now)
        self._sweeping = loop.call_later(_SWEEP_EVERY_S, self._sweep)

    async def close(self, within_s: float) -> None:
        """Take nothing new, let what runs end within a time, and cut off the rest."""
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
        """Everything ends now, in the middle of a word."""
        self.is_closing = True
        if self._server is not None:
            self._server.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
