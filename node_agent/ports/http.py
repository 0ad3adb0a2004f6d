"""HTTP/1.1: requests that the agent sends, and requests that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node_agent.contract.errors import TransientError
from node_agent.core.common.address import Address


class ExchangeLost(TransientError):
    """The other side did not answer, or not to the end.

    Args:
        why: one word, or as `core/failure/report` writes it: refused, unreachable, reset, eof, silence, broken,
            too-large.
        passed_on: True where a peer reports the loss of its engine; False where this exchange itself was lost.
    """

    def __init__(self, why: str, *, passed_on: bool = False) -> None:
        super().__init__(f"the exchange was lost: {why}")
        self.why = why
        self.passed_on = passed_on


class Response(Protocol):
    """A request that was sent, and the response to it as it arrives. Always `close()` it.

    status, headers: known once `head` has returned; names of headers are in lower case. began_at, heard_at: loop time
    of the first and of the last bytes, 0 before any; pieces: how many times bytes arrived, about once a token.
    """

    @property
    def began_at(self) -> float: ...

    @property
    def heard_at(self) -> float: ...

    @property
    def pieces(self) -> int: ...

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def is_event_stream(self) -> bool: ...

    async def head(self) -> None:
        """Wait for the head of the response. Raises ExchangeLost."""
        ...

    async def read(self) -> bytes:
        """Return what arrived since the last read, b"" at the end. Raises ExchangeLost."""
        ...

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, too-large for a larger body."""
        ...

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Pass what arrives to `sink`, at once and until the end. Raises ExchangeLost, once the sink has all of it."""
        ...

    def pause(self, paused: bool) -> None:
        """Stop or continue reading; the read timeout does not run during a pause."""
        ...

    def allow_silence(self, seconds: float) -> None:
        """Set the read timeout: from now on, `seconds` without bytes lose the exchange."""
        ...

    def end_within(self, seconds: float) -> None:
        """Limit the rest of the exchange, of which nothing more is needed, to `seconds`."""
        ...

    def abort(self, why: str) -> None:
        """Close the connection: the waiting call raises ExchangeLost(why); the server sees its client disconnect."""
        ...

    def close(self) -> None: ...


class Http(Protocol):
    """HTTP/1.1 requests to engines, peers and IMDS."""

    def ask(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        silence_s: float,
        accept_s: float | None = None,
        sign_s: float | None = None,
        lost: Callable[[str], None] | None = None,
    ) -> Response:
        """Send a request.

        Args:
            silence_s: the read timeout in seconds, until `allow_silence` changes it.
            accept_s: seconds until the first bytes, from a server that accepts requests at once
                (`ServerRequest.accept`).
            sign_s: seconds without any bytes, from a server that has promised signs of life (SIGNS_HEADER of an interim
                response).
            lost: called once, with the reason, where the exchange is lost.
        """
        ...

    async def open(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        silence_s: float,
    ) -> Response:
        """Send a request as `ask` does, and wait for the head. Raises ExchangeLost."""
        ...


class ServerRequest(Protocol):
    """A request that was received whole, and the methods to respond to it: none of them waits.

    method: GET also for HEAD; path: decoded, without the query; target: as it was sent; headers: by lower case names;
    address: of the client, "" where it is not known.
    """

    @property
    def address(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def body(self) -> bytes: ...

    @property
    def is_gone(self) -> bool:
        """True once the client has closed its connection: a response would reach no one."""
        ...

    @property
    def is_congested(self) -> bool:
        """True while the client reads more slowly than it is sent."""
        ...

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call back when the client disconnects before the response is complete; the last callback set counts."""
        ...

    def when_congested(self, call: Callable[[bool], None]) -> None:
        """Call back when the client reads more slowly than it is sent (True), and when it has caught up (False)."""
        ...

    def forget_body(self) -> None:
        """Free the body's memory before the response ends; `body` is empty from now on."""
        ...

    def add_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Add headers to the response, before it begins. The last of one name counts."""
        ...

    def accept(self, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send an interim response: the request was received, and the response will take time.

        Call it again later as a sign of life. It does nothing once the response has begun. more: headers.
        """
        ...

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Send a complete response. content_type: b"" for none; more: headers."""
        ...

    def begin(self, status: int, content_type: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the head of a response whose body follows in parts."""
        ...

    def write(self, data: bytes) -> None: ...

    def end(self, last: bytes = b"") -> None: ...


@dataclass(frozen=True)
class AlternateProtocol:
    """Another protocol on a server's port: `take_over` makes it for connections that begin with `preface`."""

    preface: bytes
    take_over: Callable[[asyncio.Transport], asyncio.Protocol]
