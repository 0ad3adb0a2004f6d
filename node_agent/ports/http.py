"""HTTP/1.1: requests that the agent sends, and requests that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node_agent.contract.errors import TransientError
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import Loss


class ExchangeLost(TransientError):
    """The other side did not answer, or not to the end.

    Args:
        loss: why.
        passed_on: whether a peer reports it of its engine; else it is of the exchange itself.
    """

    def __init__(self, loss: Loss, *, passed_on: bool = False) -> None:
        super().__init__(f"the exchange was lost: {loss}")
        self.loss = loss
        self.passed_on = passed_on


class Response(Protocol):
    """A request that was sent, and its response as it arrives. Always `close()` it.

    status, headers: known once `head` has returned; names of headers are in lower case.
    first_read_at, last_read_at: loop time of the first and of the last bytes received, 0 before any.
    reads: how many times bytes arrived, about once a token.
    """

    @property
    def first_read_at(self) -> float: ...

    @property
    def last_read_at(self) -> float: ...

    @property
    def reads(self) -> int: ...

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def is_event_stream(self) -> bool: ...

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost."""
        ...

    async def read(self) -> bytes:
        """What arrived since the last read, b"" at the end. Raises ExchangeLost."""
        ...

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body; a larger one is lost as too-large. Raises ExchangeLost."""
        ...

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Give what arrives to `sink`, at once and until the end. Raises ExchangeLost, once the sink has all of it."""
        ...

    def pause(self, paused: bool) -> None:
        """Stop reading for now, or resume; a pause does not count as silence."""
        ...

    def set_read_timeout(self, seconds: float) -> None:
        """From now on, a silence of `seconds` loses the exchange."""
        ...

    def end_within(self, seconds: float) -> None:
        """Nothing more is wanted of it: from now on `seconds` may pass until its end."""
        ...

    def abort(self, loss: Loss) -> None:
        """Abort the exchange: a waiting caller gets ExchangeLost(loss), and the connection is closed."""
        ...

    def close(self) -> None: ...


class Http(Protocol):
    """HTTP/1.1 requests to engines, peers and IMDS."""

    def request(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        read_timeout_s: float,
        accept_timeout_s: float | None = None,
        keepalive_timeout_s: float | None = None,
        on_lost: Callable[[Loss], None] | None = None,
    ) -> Response:
        """Send a request.

        Args:
            address: of the server.
            method: in upper case.
            target: the path and the query.
            headers: without `host` and `content-length`.
            body: sent with its length.
            read_timeout_s: how long the other side may send nothing; `set_read_timeout` changes it.
            accept_timeout_s: how long until its first bytes, where it accepts requests at once
                (`ServerRequest.accept`).
            keepalive_timeout_s: how long it may send nothing at all, once it has announced keep-alives (SIGNS_HEADER
                of an interim response).
            on_lost: receives the loss, once, where the exchange is lost.

        Returns:
            The response, before its head has arrived.
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
        read_timeout_s: float,
    ) -> Response:
        """Send a request with `request`, and wait for the head. Raises ExchangeLost."""
        ...


class ServerRequest(Protocol):
    """A request that came to a door, whole, and the way to answer it: nothing here waits.

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
        """True once the client has closed its connection."""
        ...

    @property
    def is_congested(self) -> bool:
        """Whether the client takes less than it is sent."""
        ...

    def when_gone(self, call: Callable[[], None]) -> None:
        """Set the callback for a client that leaves before it has the response; the last one set counts."""
        ...

    def when_congested(self, call: Callable[[bool], None]) -> None:
        """Set the callback for back-pressure: True when the client lags, False once it has caught up."""
        ...

    def forget_body(self) -> None:
        """Release the body: it is empty from now on, and holds no memory until the response ends."""
        ...

    def add_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Add headers to the response. Call it before the response begins; the last value of a name counts."""
        ...

    def accept(self, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Say that the request has come and that its answer will take its time; later again, as a sign of life.

        Nothing happens once the answer has begun. more: headers.
        """
        ...

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer in one piece. content_type: b"" for none; more: headers."""
        ...

    def begin(self, status: int, content_type: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """The head of an answer that comes in pieces."""
        ...

    def write(self, data: bytes) -> None: ...

    def end(self, last: bytes = b"") -> None: ...


@dataclass(frozen=True)
class AlternateProtocol:
    """Connections to a door that begin with `preface` speak no HTTP: `take_over` makes their protocol."""

    preface: bytes
    take_over: Callable[[asyncio.Transport], asyncio.Protocol]
