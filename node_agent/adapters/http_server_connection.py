"""One connection at an HTTP server, and the requests on it.

Rules kept here:

* a request is passed on complete; its head, its body and its time are bounded (`http_message`);
* one that its head alone decides to refuse is answered at once. What its client still sends is read and dropped, for a
  bounded time, so that it can read the response;
* one request is answered at a time; requests that a client sends ahead wait, in a bounded number, and none begins while
  the client does not read;
* the handler is notified when the client disconnects, and when it reads slowly; a client that does not read for too
  long is disconnected;
* every response is written whole and in order: an error, too, waits for the earlier responses;
* after an error that makes the connection unusable, the client still has time to read it before the connection closes;
* an ended connection is freed at once: nothing that belongs to it references it (tests run with the collector off).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from node_agent.adapters.http_errors import (
    ADDRESS_FULL,
    BODY_DROPPED,
    NOT_ANSWERED,
    SERVER_FULL,
    encode_final_error,
    request_timeout,
)
from node_agent.adapters.http_message import MessageReader
from node_agent.adapters.http_request import Request
from node_agent.adapters.http_server_interface import Server
from node_agent.core.http.body_budget import HeldBody
from node_agent.core.http.connection_limits import ConnectionSlot
from node_agent.core.http.request_head import ErrorResponse
from node_agent.core.http.slow_clients import RequestArrival, UnreadOutput

LINGER_S = 2.0
"""How long a refused client's connection stays open: closed at once, the client might never read the error."""

_TLS_UNSENT_BYTES = 64 * 1024
"""Unsent bytes at which a client of TLS lags: those of a connection without TLS; asyncio's own are eight times that."""

HEALTH_TIMEOUT_S = 5.0
"""How long a connection beyond the bounds may take to request the node's health."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ServerConnection(asyncio.Protocol):
    """One connection; the Receiver of its reader, the Connection of its requests."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_congested = False
        self.address = ""
        self.peer = ""
        self.write: Callable[[bytes], None] = _discard
        self.slot = ConnectionSlot.NONE
        self.is_made = False
        self._is_admitted = False
        self._transport: asyncio.Transport | None = None
        self._reader = MessageReader(self, server.limits)
        self._prefix: bytes | None = b"" if server.alternate is not None else None
        self._current: Request | None = None
        self._waiting: deque[Request] = deque()
        self._final_error: bytes | None = None  # the last word on this connection, in its turn
        self._final_error_at: float | None = None  # when it was written
        self._continue_pending = False  # a client waits with its body until the answers before it are written
        self._free_at = server.now  # since when nothing is being answered
        self._arrival = RequestArrival(server.now)  # of the request that is not whole, or was the last one
        self._unread: UnreadOutput | None = None  # while the client lags
        self._body: HeldBody | None = None  # of the request that is not whole
        self._bodies: dict[Request, HeldBody] = {}
        self._refused: Request | None = None  # by its head: the last request

    def admit(self, address: str) -> bool:
        """Take a slot at the server; return whether there was one. address: the client's IP address."""
        self._is_admitted = True
        self.address = address
        self.slot = self.server.add(self, address)
        if self.slot is ConnectionSlot.NONE:
            self.server.remove(self, address)
        return self.slot is not ConnectionSlot.NONE

    def release(self) -> None:
        """Release the slot of a connection whose handshake failed."""
        self.server.remove(self, self.address)
        self._reader.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a slot at the server, where it has none. Without one the connection is aborted.

        A server that closes sends a 503.
        """
        self.is_made = True
        self._transport = transport  # type: ignore[assignment] # a server's is one
        self.write = self._transport.write  # type: ignore[union-attr] # it was just set
        if is_secured := self._is_admitted:  # it was connected for the length of a handshake
            self._free_at = self.server.now
            self._transport.set_write_buffer_limits(_TLS_UNSENT_BYTES)  # type: ignore[union-attr] # the same
        else:
            name = transport.get_extra_info("peername")
            self.admit(str(name[0]) if name else "")
        peer = self.server.identify(transport) if is_secured else ""
        self.peer = peer or ""
        if peer is None:
            self.server.count_refusal("unknown_peer")
            self.abort()
        elif self.slot is ConnectionSlot.NONE or self.server.is_over:
            self.abort()  # even to say so costs a connection
        elif self.server.is_closing:
            self.on_fault(SERVER_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that the connection holds, and notify the handlers of its requests."""
        self.server.remove(self, self.address)
        self._transport, self.write = None, _discard
        self._reader.close()
        requests = (self._current, *self._waiting)
        self._current = None
        self._waiting.clear()
        for request in requests:
            if request is not None:
                request.on_client_gone()
        for body in (self._body, *self._bodies.values()):
            if body is not None:
                self.server.bodies.release(body)
        self._body, self._final_error, self._refused = None, None, None
        self._bodies.clear()

    def pause_writing(self) -> None:
        """Record that the client lags: the transport holds more than its high-water mark."""
        self._set_congested(True)

    def resume_writing(self) -> None:
        """Record that the client has caught up, and process what waited for that."""
        self._set_congested(False)
        if self._current is None and self._final_error_at is None:
            self._process_next()

    def _set_congested(self, is_congested: bool) -> None:
        self.is_congested = is_congested
        if self._current is not None:
            self._current.on_congestion(is_congested)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the reader, once they are known to be HTTP; after the final error they are dropped."""
        if self._prefix is not None:
            data = self._detect_protocol(self._prefix + data)
        if data and self._final_error is None:
            if not self._reader.is_partial:
                self._arrival = RequestArrival(self.server.now)
            self._reader.feed(data)

    def _detect_protocol(self, first: bytes) -> bytes:
        """Return the first bytes, unless they begin, or may begin, the alternate protocol."""
        alternate = self.server.alternate
        if alternate is None or self._transport is None:
            return first
        if len(first) < len(alternate.preface) and alternate.preface.startswith(first):
            self._prefix = first
            return b""
        self._prefix = None
        if not first.startswith(alternate.preface) or self.slot is not ConnectionSlot.FULL:
            return first
        transport, self._transport, self.write = self._transport, None, _discard
        self.server.remove(self, self.address)
        self._reader.close()
        protocol = alternate.take_over(transport)
        transport.set_protocol(protocol)
        protocol.data_received(first)
        return b""

    # what the reader reads

    def on_request(self, method: str, target: str, headers: dict[bytes, bytes], body: bytes) -> None:
        """Answer a complete request, in its turn; abort a client that sent more than `pipelined` ahead.

        On a connection beyond the bounds, only the paths of `health` are answered; all others are the final error.
        """
        request = Request(self, method, target, headers, body)
        request.supports_chunks = self._reader.version == "1.1"
        request.keeps_alive = request.supports_chunks and self._reader.keeps_alive
        self._take(request)

    def is_refused(self, method: str, target: str, headers: dict[bytes, bytes]) -> bool:
        """Return whether a request is refused by its head alone, also because the connection is beyond the bounds."""
        return self.slot is not ConnectionSlot.FULL or self.server.is_refused(method, target, headers)

    def on_refused(self, method: str, target: str, headers: dict[bytes, bytes]) -> None:
        """Answer a request that its head decided to refuse, in its turn; it is the last one of the connection."""
        request = self._refused = Request(self, method, target, headers, b"")
        request.supports_chunks = self._reader.version == "1.1"
        request.keeps_alive = False
        self._take(request)

    def _take(self, request: Request) -> None:
        """Answer a request in its turn."""
        self._continue_pending = False
        if self._body is not None:
            self._body.is_complete = True
            self._bodies[request] = self._body
            self._body = None
        if self.slot is not ConnectionSlot.FULL:
            if request.method != "GET" or request.path not in self.server.limits.health:
                self._refuse_slot()
                return
            request.keeps_alive = False
        if self._current is None and not self._waiting and not self.is_congested:
            self._answer(request)
        elif len(self._waiting) < self.server.limits.pipelined:
            self._waiting.append(request)
            self._set_reading(False)
        else:
            self.server.count_refusal("pipelined")
            self.abort()

    def _refuse_slot(self) -> None:
        """Send the error of a connection beyond the bounds."""
        self.on_fault(SERVER_FULL if self.slot is ConnectionSlot.HEALTH_ONLY else ADDRESS_FULL)

    def reserve_body(self, size: int) -> bool:
        """Reserve room for the incomplete body, now `size` bytes; return whether there is room."""
        if self._body is None:
            self._body = HeldBody(self.address, self._release_unfinished_body)
        return self.server.reserve_body(self._body, size)

    def _release_unfinished_body(self) -> None:
        self.on_fault(BODY_DROPPED)

    def on_expect_continue(self) -> None:
        """Send 100 Continue, once the responses before it are written."""
        if self._current is None and not self._waiting:
            self.write(_CONTINUE)
        else:
            self._continue_pending = True

    def on_fault(self, fault: ErrorResponse) -> None:
        """Send an error as the last response on this connection; the client can read it before the connection closes.

        Earlier responses come before it.
        """
        if self._final_error is not None or self._transport is None:
            return
        self._reader.stop()
        self.server.count_refusal(fault.code)
        self._final_error = encode_final_error(fault, self.date)
        if self._body is not None:
            self.server.bodies.release(self._body)
            self._body = None
        if self._current is None and not self._waiting:
            self._process_next()

    # requests

    @property
    def is_closing(self) -> bool:
        """Whether the server closes, so that this connection ends behind the current response."""
        return self.server.is_closing

    @property
    def date(self) -> bytes:
        """The response header with the date, as one line."""
        return self.server.date

    def _answer(self, request: Request) -> None:
        self._current = request
        answering = self.server.run(request, is_refused=request is self._refused)
        answering.add_done_callback(lambda task: request.abort_response())

    def on_answered(self, request: Request) -> None:
        """Process the next request: the response to the current one was written."""
        self._current = None
        self._release(request)
        self._free_at = self.server.now
        if request is self._refused:
            self._final_error, self._final_error_at = b"", self.server.now
            self._set_reading(True)
        elif not request.keeps_alive or self.server.is_closing:
            self._close()
        elif not self.is_congested:
            self._process_next()

    def on_aborted(self, request: Request) -> None:
        """Handle a current request whose handler ended without a complete response."""
        if request.is_begun:
            self.abort()
            return
        self._current = None
        self._release(request)
        self._waiting.clear()
        self._final_error = None
        self.on_fault(NOT_ANSWERED)

    def _release(self, request: Request) -> None:
        if self._bodies and (body := self._bodies.pop(request, None)) is not None:
            self.server.bodies.release(body)

    def _process_next(self) -> None:
        """Process what comes next after a response."""
        if self._waiting:
            self._answer(self._waiting.popleft())
        elif self._final_error is not None:
            self._final_error_at = self.server.now
            self._set_reading(True)
            self.write(self._final_error)
        else:
            transport = self._transport
            if self._continue_pending or (transport is not None and not transport.is_reading()):
                self._arrival = RequestArrival(self.server.now)  # the client could not send the rest before
            if self._continue_pending:
                self._continue_pending = False
                self.write(_CONTINUE)
            self._set_reading(True)

    # the transport

    def _set_reading(self, is_reading: bool) -> None:
        if self._transport is not None and self._transport.is_reading() is not is_reading:
            if is_reading and self._transport.is_closing():
                return
            (self._transport.resume_reading if is_reading else self._transport.pause_reading)()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once, without sending what is buffered."""
        if self._transport is not None:
            self._transport.abort()

    def end_when_idle(self) -> None:
        """Close the connection when idle; the active request is the last."""
        if self._current is None and not self._reader.is_partial:
            self._close()

    # time

    def check(self, now: float) -> None:
        """End what takes too long. Called about once a second."""
        transport = self._transport
        if transport is None:
            return
        if self.is_congested or transport.is_closing():
            self._check_reader(transport, now)
        else:
            self._unread = None
        if self._final_error_at is not None:
            quiet_s = now - self._final_error_at
            if quiet_s > LINGER_S:
                self.abort() if quiet_s > 2 * LINGER_S else self._close()
        elif self._current is None and not self._waiting:
            self._check_request(now)

    def _check_reader(self, transport: asyncio.Transport, now: float) -> None:
        """Disconnect a client that has not read for too long."""
        size = transport.get_write_buffer_size()
        if self._unread is None:
            self._unread = UnreadOutput(now, size)
        if self._unread.is_overdue(now, size, self.server.limits.unread_s):
            self.server.count_refusal("unread")
            self.abort()

    def _check_request(self, now: float) -> None:
        """Check the time of an incomplete request, or of an idle connection."""
        limits, reader = self.server.limits, self._reader
        if self.slot is not ConnectionSlot.FULL and now - self._free_at > HEALTH_TIMEOUT_S:
            self._refuse_slot()
        elif reader.is_partial or self._prefix:
            if self._arrival.is_overdue(
                now,
                reader.body_bytes,
                max_s=limits.request_s if reader.head_is_complete else limits.stalled_s,
                stalled_s=limits.stalled_s,
                stalled_bytes=limits.stalled_bytes,
            ):
                self.on_fault(request_timeout(now - self._arrival.began_at))
        elif now - self._free_at > limits.idle_s:
            self._close()


def _discard(data: bytes) -> None:
    """Discard data for a client that is gone."""
