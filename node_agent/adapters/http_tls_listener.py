"""Accept TLS connections for an HTTP server: each has its slot before its handshake, and the handshake is bounded.

An event loop's own TLS server reports a connection after its handshake only: those that never finish one would count
nowhere, and a client without TLS would get no answer. Rules kept here:

* a connection is admitted before its handshake, so that the bounds on connections hold for handshakes, too;
* from being accepted to the end of its handshake a connection has HANDSHAKE_TIMEOUT_S;
* a client that does not begin with TLS gets an error in plain HTTP;
* each handshake uses the newest context.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Protocol, cast

HANDSHAKE_TIMEOUT_S = 10.0
_ACCEPTED_AT_ONCE = 32
"""In one turn of the loop: a handshake takes some tenths of a millisecond, and streams wait meanwhile."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_WAIT_S = 1.0
_LINGER_S = 2.0
_HANDSHAKE_RECORD = b"\x16"
"""The first byte of a TLS connection."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_MAX_DROPPED_BYTES = 64 * 1024
_log = logging.getLogger(__name__)


class AdmittedConnection(Protocol):
    """A connection that has its slot; also a protocol of asyncio."""

    @property
    def is_made(self) -> bool:
        """Whether it was connected, so that its transport notifies it of its end."""
        ...

    def release(self) -> None:
        """Release the slot of a connection that was never made."""
        ...


class Server(Protocol):
    """What a listener needs of its server."""

    def admit(self, address: str) -> AdmittedConnection | None:
        """Return a new connection with a slot; None where there is none. address: the client's IP address."""
        ...

    def count_refusal(self, code: str) -> None:
        """Count a refused or cut-off connection."""
        ...

    def plain_http_error(self) -> bytes:
        """Return the response to a client that does not begin with TLS."""
        ...


class TlsListener:
    """Accepts connections at a listening socket.

    context: returns the newest context; shutdown_timeout_s: how long a closing connection may take to read what it was
    sent, and to confirm the end.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: Callable[[], ssl.SSLContext],
        server: Server,
        shutdown_timeout_s: float,
    ) -> None:
        self._listener = listener
        self._context = context
        self._server = server
        self._shutdown_timeout_s = shutdown_timeout_s
        self._handshakes: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._resuming: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept connections from now on."""
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening; handshakes in progress continue."""
        if self._resuming is not None:
            self._resuming.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    def abort(self) -> None:
        """Stop listening, and end the handshakes in progress."""
        self.close()
        for task in self._handshakes:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, name = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._admit(accepted, str(name[0]))

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a moment where the process has no descriptors or memory left; as the loop's servers do."""
        if error.errno not in _EXHAUSTED:
            raise error
        _log.error("no connection can be accepted: %s", error.strerror)
        self._loop.remove_reader(self._listener.fileno())
        self._resuming = self._loop.call_later(_EXHAUSTED_WAIT_S, self.start)

    def _admit(self, accepted: socket.socket, address: str) -> None:
        connection = self._server.admit(address)
        if connection is None:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            accepted.close()
            return
        accepted.setblocking(False)
        task = self._loop.create_task(self._secure(accepted, connection))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _secure(self, accepted: socket.socket, connection: AdmittedConnection) -> None:
        """Make a connection: find out what the client begins with, and do the handshake."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                first = await _peek(accepted)
                if first == _HANDSHAKE_RECORD:
                    await self._do_handshake(accepted, connection)
                    return
            if first:
                self._server.count_refusal("no_tls")
                await _refuse_plain(accepted, self._server.plain_http_error())
        except TimeoutError:
            self._server.count_refusal("tls_handshake_timeout")
        except OSError as error:  # SSLError is one
            if not isinstance(error, ConnectionResetError):
                self._server.count_refusal("tls_handshake")
            _log.debug("a TLS handshake failed: %s", error)
        finally:
            if not connection.is_made:
                connection.release()
                accepted.close()

    async def _do_handshake(self, accepted: socket.socket, connection: AdmittedConnection) -> None:
        await self._loop.connect_accepted_socket(
            lambda: cast(asyncio.Protocol, connection),
            accepted,
            ssl=self._context(),
            ssl_handshake_timeout=2 * HANDSHAKE_TIMEOUT_S,  # the timeout around this one is shorter
            ssl_shutdown_timeout=self._shutdown_timeout_s,
        )


async def _peek(accepted: socket.socket) -> bytes:
    """Wait for the first byte, and leave it where it is; b"" where the client has left."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(accepted.fileno(), on_readable)
    try:
        await readable
    finally:
        loop.remove_reader(accepted.fileno())
    return accepted.recv(1, socket.MSG_PEEK)


async def _refuse_plain(accepted: socket.socket, error: bytes) -> None:
    """Send an error, and give the client time to read it: closed at once, with unread data, it would be dropped."""
    with contextlib.suppress(BlockingIOError):
        accepted.recv(_MAX_DROPPED_BYTES)
    accepted.send(error)
    accepted.shutdown(socket.SHUT_WR)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            for _ in range(_ACCEPTED_AT_ONCE):
                if not await loop.sock_recv(accepted, _MAX_DROPPED_BYTES):
                    return
