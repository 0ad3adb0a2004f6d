"""A request at an HTTP server, and its response: bytes of HTTP/1.1 out, without waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote

STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Headers = Sequence[tuple[bytes, bytes]]


class Connection(Protocol):
    """The connection that a request came on: what a response needs of it."""

    @property
    def address(self) -> str:
        """The client's IP address."""
        ...

    @property
    def peer(self) -> str:
        """The id of the node on the other side, where its certificate shows it."""
        ...

    @property
    def is_congested(self) -> bool:
        """Whether the client reads slower than the response is written."""
        ...

    @property
    def is_closing(self) -> bool:
        """Whether the server is closing, so that the connection cannot be reused."""
        ...

    @property
    def date(self) -> bytes:
        """The line of the Date header, with its line end."""
        ...

    @property
    def write(self) -> Callable[[bytes], None]:
        """Write bytes without waiting. Each request keeps this function: every token passes it."""
        ...

    def on_answered(self, request: Request) -> None:
        """Handle the end of a complete response."""
        ...

    def on_aborted(self, request: Request) -> None:
        """Handle a request whose handler ended without a complete response."""
        ...


class Request:
    """The ServerRequest port.

    keeps_alive: whether the connection can be reused after the response.
    supports_chunks: whether the client supports chunked encoding.
    """

    def __init__(
        self, connection: Connection, method: str, target: str, headers: Mapping[bytes, bytes], body: bytes
    ) -> None:
        self.method = "GET" if method == "HEAD" else method
        self.target = target
        self.headers = headers
        self.body = body
        self.is_gone = False
        self.is_begun = False
        self.is_ended = False
        self.keeps_alive = True
        self.supports_chunks = True
        self._is_head = method == "HEAD"
        self._added: dict[bytes, bytes] = {}
        self._connection = connection
        self._send = connection.write
        self._gone: Callable[[], None] | None = None
        self._congested: Callable[[bool], None] | None = None

    @property
    def path(self) -> str:
        """The target's path, decoded, without the query."""
        path = self.target.partition("?")[0]
        return unquote(path) if "%" in path else path

    @property
    def address(self) -> str:
        """The IP address of the client, "" where it is not known."""
        return self._connection.address

    @property
    def peer(self) -> str:
        """The id of the node that sent the request, "" where no certificate shows it."""
        return self._connection.peer

    @property
    def is_congested(self) -> bool:
        """Whether the client reads more slowly than this side writes."""
        return self._connection.is_congested

    # the client's connection

    def when_gone(self, call: Callable[[], None]) -> None:
        """Set the callback for a client that leaves before the response ends; called at once where it has left."""
        if self.is_gone:
            call()
        elif not self.is_ended:
            self._gone = call

    def when_congested(self, call: Callable[[bool], None]) -> None:
        """Set the callback for back-pressure; called at once with True where the client already lags."""
        if self.is_gone or self.is_ended:
            return
        self._congested = call
        if self._connection.is_congested:
            call(True)

    def on_client_gone(self) -> None:
        """Record that the connection is closed; notify the handler unless it has ended the response."""
        self.is_gone = True
        gone = self._gone
        self._clear_callbacks()
        if gone is not None and not self.is_ended:
            gone()

    def on_congestion(self, is_congested: bool) -> None:
        """Pass a change of back-pressure on: True once the client lags, False once it has caught up."""
        if self._congested is not None:
            self._congested(is_congested)

    def _clear_callbacks(self) -> None:
        """Clear the callbacks: they reference this request, and the cycle would never be freed."""
        self._gone = self._congested = None

    # answering

    def forget_body(self) -> None:
        """Release the body; it is empty from now on."""
        self.body = b""

    def add_headers(self, headers: Headers) -> None:
        """Add headers to the response, before it begins; the last value of a name counts."""
        self._added |= dict(headers)

    def accept(self, more: Headers = ()) -> None:
        """Send an interim response (102), unless the response has begun or the client is of HTTP/1.0. more: headers."""
        if self.supports_chunks and not self.is_begun:
            extra = b"".join([b"%b: %b\r\n" % header for header in more])
            self._write(b"HTTP/1.1 102 Processing\r\n%b\r\n" % extra)

    def respond(self, status: int, body: bytes, content_type: bytes = b"application/json", more: Headers = ()) -> None:
        """Send the whole response. content_type: b"" for none; more: headers.

        Raises:
            RuntimeError: the response has begun already.
        """
        if self.is_begun:
            raise RuntimeError("a request is answered once")
        self.is_begun = True
        lines = b"content-length: %d\r\n" % len(body)
        if content_type:
            lines = b"content-type: %b\r\n%b" % (content_type, lines)
        self._write(self._head(status, lines, more) + (b"" if self._is_head else body))
        self._end()

    def begin(self, status: int, content_type: bytes, more: Headers = ()) -> None:
        """Send the head of a response in parts: chunked, or up to the connection's end for a client of HTTP/1.0."""
        self.is_begun = True
        lines = b"content-type: %b\r\n" % content_type
        if self.supports_chunks:
            lines += b"transfer-encoding: chunked\r\n"
        else:
            self.keeps_alive = False
        self._write(self._head(status, lines, more))

    def write(self, data: bytes) -> None:
        """Send a part of the body; nothing is sent to a HEAD request, or to a client that is gone."""
        if data and not self._is_head and not self.is_gone:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self.supports_chunks else data)

    def end(self, last: bytes = b"") -> None:
        """Send the last part and end the response, after which the next request on the connection begins."""
        if self.is_ended:
            return
        self.write(last)
        if self.supports_chunks and not self._is_head:
            self._write(b"0\r\n\r\n")
        self._end()

    def _head(self, status: int, lines: bytes, more: Headers) -> bytes:
        if self._connection.is_closing:
            self.keeps_alive = False
        extra = b"".join([b"%b: %b\r\n" % header for header in (*self._added.items(), *more)])
        end = b"\r\n" if self.keeps_alive else b"connection: close\r\n\r\n"
        return b"".join((STATUS[status], self._connection.date, lines, extra, end))

    def _write(self, data: bytes) -> None:
        if not self.is_gone:
            self._send(data)

    def _end(self) -> None:
        self.is_ended = True
        self._clear_callbacks()
        if not self.is_gone:
            self._connection.on_answered(self)

    def abort_response(self) -> None:
        """Abort an unfinished response: the client must not take it for complete."""
        if not self.is_ended:
            self.is_ended = True
            self._clear_callbacks()
            if not self.is_gone:
                self._connection.on_aborted(self)
