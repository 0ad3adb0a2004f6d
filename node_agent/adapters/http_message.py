"""Read requests from a connection's bytes, with a bound for everything that may arrive; callbacks are httptools'.

Rules kept here:

* a request is passed on only when it is complete, unless its head alone decides that it is refused;
* every byte is counted: a body's against the body's bound, all others (lines, headers, extensions of chunks, trailers,
  empty lines between requests) against the head's, chunks by their number;
* headers are bounded in number, and trailers are dropped;
* a body that arrives in parts is one buffer: a million chunks of a byte take a megabyte;
* after a fault nothing more is read.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from node_agent.adapters.http_limits import Limits
from node_agent.core.http.body_budget import SMALL_BYTES
from node_agent.core.http.request_head import ErrorResponse, check_head

_CHUNK_FRAME_BYTES = 8
"""What a chunk may cost beside its bytes: its length of up to four digits, and two line ends."""

_CHUNKS = 4_096
_BYTES_PER_CHUNK = 16
"""That many chunks are free; beyond them a chunk must have this many bytes on average."""


class Receiver(Protocol):
    """Receives what was read."""

    def on_request(self, method: str, target: str, headers: dict[bytes, bytes], body: bytes) -> None:
        """Receive a complete request. `version` and `keeps_alive` of the reader still refer to it."""
        ...

    def is_refused(self, method: str, target: str, headers: dict[bytes, bytes]) -> bool:
        """Return whether a request with a body is refused, whatever its body is."""
        ...

    def on_refused(self, method: str, target: str, headers: dict[bytes, bytes]) -> None:
        """Receive the head of such a request; nothing is read after it."""
        ...

    def on_fault(self, fault: ErrorResponse) -> None:
        """Receive a fault; nothing is read after it."""
        ...

    def on_expect_continue(self) -> None:
        """Handle a client that waits with its body for permission (Expect: 100-continue)."""
        ...

    def reserve_body(self, size: int) -> bool:
        """Reserve room for a body of `size` bytes so far, more than SMALL_BYTES; return whether there is room."""
        ...


class MessageReader:
    """Reads one connection's requests, in order. `close` it: a parser and its owner reference each other.

    is_partial: whether a request has begun and is not complete.
    head_is_complete: of that request.
    """

    def __init__(self, receiver: Receiver, limits: Limits) -> None:
        self._receiver: Receiver | None = receiver
        self._limits = limits
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._is_last = False  # data behind this request is ignored
        self._unparsed_bytes = 0  # bytes of a body that the parser does not read
        self._outside = 0  # bytes since the last request's end that are of no body
        self._in_bodies = 0  # bytes of bodies among those that are being fed
        self._ended = False  # a request ended among those that are being fed
        self._input: bytes | bytearray = b""  # what is being fed, with the beginning of a head that came before it
        self._searched = 0  # how much of that was looked at for heads
        self._reset()

    def _reset(self) -> None:
        self.is_partial = False
        self.head_is_complete = False
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_count = 0
        self._chunks = 0
        self._body: bytes | bytearray = b""

    def stop(self) -> None:
        """Read nothing more, also of the input being parsed."""
        self._receiver = None
        self._unparsed_bytes, self._is_last = 0, True
        self._headers, self._body, self._input = {}, b"", b""

    def close(self) -> None:
        """Free the parser: the connection is closed."""
        self.stop()
        self._parser = None

    @property
    def body_bytes(self) -> int:
        """Bytes so far of the incomplete request's body."""
        return len(self._body)

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can be reused after the request that was just read."""
        parser = self._parser
        return parser is not None and parser.should_keep_alive() and not parser.should_upgrade()

    @property
    def version(self) -> str:
        """The HTTP version of the request that was just read, such as "1.1"; "" once the reader is closed."""
        return self._parser.get_http_version() if self._parser is not None else ""

    def feed(self, data: bytes) -> None:
        """Parse bytes of the client."""
        if self._unparsed_bytes:
            self._collect(data)
            return
        if self._parser is None or self._is_last:
            return
        if not self.is_partial or self.head_is_complete:
            self._input, self._searched = data, 0
        elif isinstance(self._input, bytes):
            self._input = bytearray(self._input) + data
        else:
            self._input += data
        self._in_bodies, self._ended = 0, False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._is_last = True  # it is answered in HTTP/1.1, the only protocol here
            self._collect(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(
                ErrorResponse(400, "invalid_http", f"This is not HTTP/1.1 as this server understands it: {error}.")
            )
        if not self.is_partial or self.head_is_complete:
            self._input = b""
        self._count(len(data))

    def _count(self, size: int) -> None:
        if self._ended:  # how much of it belongs to the next request is not known: at most what one read gives
            return
        self._outside += size - self._in_bodies
        if self._outside > self._limits.head_bytes + self._chunks * _CHUNK_FRAME_BYTES:
            self._fail_head()

    # httptools

    def on_message_begin(self) -> None:
        """Begin a request: nothing is left of the one before."""
        self._reset()
        self.is_partial = True

    def on_url(self, url: bytes) -> None:
        """Append a part of the target, which may arrive in several."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header under its lower-case name, several values joined by commas; count trailers, and drop them."""
        self._header_count += 1
        if self.head_is_complete or self._header_count > self._limits.headers:
            if self._header_count > self._limits.headers:
                most = self._limits.headers
                self._fail(ErrorResponse(431, "headers_too_large", f"The request has more than {most} headers."))
            return
        name = name.lower()
        if name in self._headers:
            value = self._headers[name] + b", " + value
        self._headers[name] = value  # joined at most so often as there may be headers: never quadratic in bytes

    def on_headers_complete(self) -> None:
        """Check the head, and the length that it announces; report a client that expects 100-continue."""
        self.head_is_complete = True
        parser, headers = self._parser, self._headers
        if parser is None or self._receiver is None:
            return
        size = len(self._url) + sum(len(name) + len(value) for name, value in headers.items())
        if size > self._limits.head_bytes:
            self._fail_head()
            return
        at = self._input.find(self._url + b" HTTP/", self._searched)
        self._searched = max(at + len(self._url), self._searched)
        fault = check_head(parser.get_method().decode("latin-1"), parser.get_http_version(), headers, is_http=at >= 0)
        if fault is not None:
            self._fail(fault)
            return
        announced = headers.get(b"content-length", b"")
        has_body = announced not in (b"", b"0") or b"transfer-encoding" in headers
        if has_body and self._refuse():
            return
        if announced.isdigit() and int(announced) > self._limits.body_bytes:
            self._fail_body()
        elif headers.get(b"expect", b"").lower() == b"100-continue":
            self._receiver.on_expect_continue()

    def _refuse(self) -> bool:
        """Pass the head on where it decides that the request is refused; return whether it does."""
        receiver, parser, headers = self._receiver, self._parser, self._headers
        if receiver is None or parser is None:
            return False
        method, target = parser.get_method().decode("ascii"), self._url.decode("latin-1")
        if not receiver.is_refused(method, target, headers):
            return False
        self.stop()
        receiver.on_refused(method, target, headers)
        return True

    def on_chunk_header(self) -> None:
        """Count a chunk of the body; too many small ones are a fault (413)."""
        self._chunks += 1
        if self._chunks > _CHUNKS + len(self._body) // _BYTES_PER_CHUNK:
            self._fail(ErrorResponse(413, "request_too_large", "The body comes in too many small chunks."))

    def on_body(self, body: bytes) -> None:
        """Append bytes of the body; a fault where it exceeds its bound (413), or there is no room for it (503)."""
        self._in_bodies += len(body)
        if self._receiver is None:
            return
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body) + body
        else:
            self._body += body
        size = len(self._body)
        if size > self._limits.body_bytes:
            self._fail_body()
        elif size > SMALL_BYTES and not self._receiver.reserve_body(size):
            self._fail(
                ErrorResponse(503, "too_many_bodies", "This node holds as many large bodies as it may; try again.")
            )

    def on_message_complete(self) -> None:
        """Pass the request on, or collect the body behind an upgrade offer first, which the parser leaves unread."""
        announced = self._headers.get(b"content-length", b"0")
        if self._parser is not None and self._parser.should_upgrade() and announced.isdigit() and int(announced):
            # The parser attributes a body after an upgrade offer to the other protocol; Java clients send such.
            self._unparsed_bytes = int(announced)
        else:
            self._complete()

    def _collect(self, data: bytes) -> None:
        """Collect a body that the parser does not read."""
        if not self._unparsed_bytes:
            return
        data = data[: self._unparsed_bytes]
        self._unparsed_bytes -= len(data)
        self.on_body(data)
        if not self._unparsed_bytes:
            self._complete()

    def _complete(self) -> None:
        self._ended, self._outside = True, 0
        if self._receiver is None or self._parser is None:
            return
        body, method = bytes(self._body), self._parser.get_method().decode("ascii")
        target, headers = self._url.decode("latin-1"), self._headers
        self.is_partial, self._body = False, b""
        self._receiver.on_request(method, target, headers, body)

    # faults

    def _fail_head(self) -> None:
        limit = self._limits.head_bytes
        self._fail(ErrorResponse(431, "headers_too_large", f"The request's headers are larger than {limit} bytes."))

    def _fail_body(self) -> None:
        limit = self._limits.body_bytes
        self._fail(ErrorResponse(413, "request_too_large", f"The body is larger than {limit} bytes."))

    def _fail(self, fault: ErrorResponse) -> None:
        receiver = self._receiver
        self.stop()  # the parser may still be inside its input: its further callbacks are ignored
        if receiver is not None:
            receiver.on_fault(fault)
