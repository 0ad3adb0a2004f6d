"""One connection at a door, and the requests on it; callbacks are httptools'.

Rules kept here:

* a request is whole before anybody sees it, and its head, its body and the time that it takes are bounded;
* one request is answered at a time; what a client sends ahead of that waits, a bounded number of requests;
* whoever answers hears when the client is gone, and when it is slow;
* after an error that leaves the connection unusable the client still gets to read why, before it is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httptools
import orjson

from node_agent.contract.errors import openai_error

if TYPE_CHECKING:
    from node_agent.adapters.http_server import HttpServer

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_LINGER_S = 2.0
"""How long a refused client may still be listened to: closed at once, it might never read why."""

Headers = Sequence[tuple[bytes, bytes]]


class Request:
    """The DoorRequest port."""

    def __init__(
        self, connection: DoorConnection, method: str, target: str, headers: Mapping[bytes, bytes], body: bytes
    ) -> None:
        self.method = "GET" if method == "HEAD" else method
        self.target = target
        self.headers = headers
        self.body = body
        self.is_gone = False
        self.is_begun = False
        self.is_ended = False
        self.may_stay = True
        self.knows_chunks = True
        self._is_head = method == "HEAD"
        self._added: dict[bytes, bytes] = {}
        self._connection = connection
        self._send = connection.write
        self._gone: Callable[[], None] | None = None
        self._congested: Callable[[bool], None] | None = None

    @property
    def path(self) -> str:
        path = self.target.partition("?")[0]
        return unquote(path) if "%" in path else path

    @property
    def address(self) -> str:
        return self._connection.address

    # hearing of the client

    def when_gone(self, call: Callable[[], None]) -> None:
        if self.is_gone:
            call()
        else:
            self._gone = call

    def when_congested(self, call: Callable[[bool], None]) -> None:
        self._congested = call
        if self._connection.is_congested:
            call(True)

    def client_left(self) -> None:
        self.is_gone = True
        if self._gone is not None and not self.is_ended:
            self._gone()

    def client_lags(self, lags: bool) -> None:
        if self._congested is not None and not self.is_ended:
            self._congested(lags)

    # answering

    def add_headers(self, headers: Headers) -> None:
        self._added |= dict(headers)

    def accept(self, more: Headers = ()) -> None:
        if self.knows_chunks and not self.is_begun:
            told = b"".join([b"%b: %b\r\n" % header for header in more])
            self._write(b"HTTP/1.1 102 Processing\r\n%b\r\n" % told)

    def respond(self, status: int, body: bytes, content_type: bytes = b"application/json", more: Headers = ()) -> None:
        if self.is_begun:
            raise RuntimeError("a request is answered once")
        self.is_begun = True
        lines = b"content-length: %d\r\n" % len(body)
        if content_type:
            lines = b"content-type: %b\r\n%b" % (content_type, lines)
        self._write(self._head(status, lines, more) + (b"" if self._is_head else body))
        self._end()

    def begin(self, status: int, content_type: bytes, more: Headers = ()) -> None:
        self.is_begun = True
        lines = b"content-type: %b\r\n" % content_type
        if self.knows_chunks:
            lines += b"transfer-encoding: chunked\r\n"
        else:
            self.may_stay = False
        self._write(self._head(status, lines, more))

    def write(self, data: bytes) -> None:
        if data and not self._is_head and not self.is_gone:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self.knows_chunks else data)

    def end(self, last: bytes = b"") -> None:
        if self.is_ended:
            return
        self.write(last)
        if self.knows_chunks and not self._is_head:
            self._write(b"0\r\n\r\n")
        self._end()

    def _head(self, status: int, lines: bytes, more: Headers) -> bytes:
        server = self._connection.server
        if server.is_closing:
            self.may_stay = False
        told = b"".join([b"%b: %b\r\n" % header for header in (*self._added.items(), *more)])
        end = b"\r\n" if self.may_stay else b"connection: close\r\n\r\n"
        return b"".join((_STATUS[status], server.date, lines, told, end))

    def _write(self, data: bytes) -> None:
        if not self.is_gone:
            self._send(data)

    def _end(self) -> None:
        self.is_ended = True
        if not self.is_gone:
            self._connection.answered(self)

    def break_off(self) -> None:
        """Whoever answered it gave up in the middle: the client must not take it for an end."""
        if not self.is_ended:
            self.is_ended = True
            if not self.is_begun and not self.is_gone:
                self._connection.refuse(500, "internal_error", "This node could not answer; the reason is in its log.")
            else:
                self._connection.abort()


class DoorConnection(asyncio.Protocol):
    """See the module."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.is_congested = False
        self.address = ""
        self.write: Callable[[bytes], None] = _to_nobody
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._first: bytes | None = b"" if server.other is not None else None
        self._current: Request | None = None
        self._waiting: deque[Request] = deque()
        self._heard_at = server.now
        self._refused_at: float | None = None
        self._is_last = False
        self._owed = 0
        self._head_bytes = 0
        self._began_at = server.now
        self._reset()

    def _reset(self) -> None:
        self._is_partial = False
        self._head_is_complete = False
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a server's is one
        name = transport.get_extra_info("peername")
        self.address = str(name[0]) if name else ""
        self.write = self._transport.write  # type: ignore[union-attr] # it was just set
        self.server.connections.add(self)
        most = self.server.limits.connections
        if self.server.is_over(2 * most):
            self.abort()  # even to say so costs a connection
        elif self.server.is_over(most) or self.server.is_closing:
            self.refuse(503, "too_many_connections", "This node has no connection to spare; try another node.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        self._transport, self.write = None, _to_nobody
        for request in (self._current, *self._waiting):
            if request is not None:
                request.client_left()
        self._waiting.clear()

    def pause_writing(self) -> None:
        self._lag(True)

    def resume_writing(self) -> None:
        self._lag(False)

    def _lag(self, lags: bool) -> None:
        self.is_congested = lags
        if self._current is not None:
            self._current.client_lags(lags)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.server.now
        if self._first is not None:
            data = self._greet(self._first + data)
        if self._owed:
            self._collect(data)
            return
        if not data or self._refused_at is not None or self._is_last:
            return
        if not self._head_is_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._is_last = True  # it is answered in HTTP/1.1, and nothing else is spoken here
            self._collect(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self.refuse(400, "invalid_http", f"This is not HTTP/1.1 as this door understands it: {error}.")
        if not self._head_is_complete and self._head_bytes > self.server.limits.head_bytes:
            self._refuse_head()

    def _greet(self, first: bytes) -> bytes:
        """The first bytes, unless they, or what may still come, begin something else than HTTP."""
        other = self.server.other
        if other is None or self._transport is None:
            return first
        if len(first) < len(other.preface) and other.preface.startswith(first):
            self._first = first
            return b""
        self._first = None
        if not first.startswith(other.preface):
            return first
        self.server.connections.discard(self)
        protocol = other.take_over(self._transport)
        self._transport.set_protocol(protocol)
        protocol.data_received(first)
        return b""

    # httptools

    def on_message_begin(self) -> None:
        self._reset()
        self._is_partial = True
        self._began_at = self.server.now

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self._headers:
            value = self._headers[name] + b", " + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._head_is_complete = True
        if self._head_bytes > self.server.limits.head_bytes:  # or there is a body among these bytes
            size = len(self._url) + sum(len(name) + len(value) for name, value in self._headers.items())
            if size > self.server.limits.head_bytes:
                self._refuse_head()
        announced = self._headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self.server.limits.body_bytes:
            self._refuse_body()
        elif self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.server.limits.body_bytes:
            self._refuse_body()
        elif self._refused_at is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        announced = self._headers.get(b"content-length", b"0")
        if self._parser.should_upgrade() and announced.isdigit() and int(announced):
            # The parser takes a body behind an offer to upgrade for the other protocol; clients in Java send such.
            self._owed = int(announced)
        elif self._refused_at is None:
            self._complete()

    def _collect(self, data: bytes) -> None:
        """A body that the parser does not read."""
        if not self._owed:
            return
        data = data[: self._owed]
        self._owed -= len(data)
        self.on_body(data)
        if not self._owed and self._refused_at is None:
            self._complete()

    def _complete(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        method = self._parser.get_method().decode("ascii")
        request = Request(self, method, self._url.decode("latin-1"), self._headers, body)
        request.knows_chunks = self._parser.get_http_version() == "1.1"
        request.may_stay = (
            request.knows_chunks and self._parser.should_keep_alive() and not self._parser.should_upgrade()
        )
        self._is_partial = False
        self._head_bytes = 0
        if self._current is None:
            self._answer(request)
        elif len(self._waiting) < self.server.limits.pipelined:
            self._waiting.append(request)
            self._read(False)
        else:
            self.abort()

    def _refuse_head(self) -> None:
        limit = self.server.limits.head_bytes
        self.refuse(431, "headers_too_large", f"The request's headers are larger than {limit} bytes.")

    def _refuse_body(self) -> None:
        limit = self.server.limits.body_bytes
        self.refuse(413, "request_too_large", f"The body is larger than {limit} bytes.")

    # requests

    def _answer(self, request: Request) -> None:
        self._current = request
        self.server.run(request).add_done_callback(lambda task: request.break_off())

    def answered(self, request: Request) -> None:
        """The answer to the current request was written."""
        self._current = None
        self._heard_at = self.server.now
        if not request.may_stay or self.server.is_closing:
            self._close()
        elif self._waiting:
            self._answer(self._waiting.popleft())
        else:
            self._read(True)

    def refuse(self, status: int, code: str, message: str) -> None:
        """An error that is the last word on this connection; the client may read it before it is closed."""
        if self._refused_at is not None or self._transport is None:
            return
        self._refused_at = self.server.now
        body = orjson.dumps(openai_error(status, code, message))
        lines = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.write(b"".join((_STATUS[status], self.server.date, lines, body)))

    # the transport

    def _read(self, reads: bool) -> None:
        if self._transport is not None and self._transport.is_reading() is not reads:
            (self._transport.resume_reading if reads else self._transport.pause_reading)()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def end_when_idle(self) -> None:
        """The door closes: what is under way may end, and is the last."""
        if self._current is None and not self._is_partial:
            self._close()

    def check(self, now: float) -> None:
        """Called about once a second: end what takes too long."""
        limits = self.server.limits
        quiet_s = now - self._heard_at
        if self._refused_at is not None:
            if now - self._refused_at > _LINGER_S:
                self._close()
        elif self._current is not None:
            return
        elif self._is_partial or self._first:
            took_s = now - self._began_at
            is_slow = took_s > (limits.request_s if self._head_is_complete else limits.stalled_s)
            if is_slow or quiet_s > limits.stalled_s:
                self.refuse(408, "request_timeout", f"The request was not whole after {took_s:.0f} s.")
        elif quiet_s > limits.idle_s:
            self._close()


def _to_nobody(data: bytes) -> None:
    """The client is gone: nobody reads it."""
