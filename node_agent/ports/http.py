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
    """A request that was sent, and its response as it arrives. Always `close()` it."""

    @property
    def first_read_at(self) -> float:
        """Loop time, in seconds, when the first bytes arrived; 0.0 before any."""
        ...

    @property
    def last_read_at(self) -> float:
        """Loop time, in seconds, since which a silence counts: of the last bytes, the sending or a pause's end."""
        ...

    @property
    def reads(self) -> int:
        """How many times bytes arrived: about once a token."""
        ...

    @property
    def status(self) -> int:
        """The HTTP status; final once `head` has returned."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The response's headers, by names in lower case; complete once `head` has returned."""
        ...

    @property
    def is_event_stream(self) -> bool:
        """True where the content type is text/event-stream; False before the head."""
        ...

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost."""
        ...

    async def read(self) -> bytes:
        """Wait for data; return all that arrived since the last read, b"" at the end. Raises ExchangeLost."""
        ...

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, as too-large for more than `max_bytes`."""
        ...

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Pass data to `sink` as it arrives, until the end. Raises ExchangeLost, once the sink has all that arrived."""
        ...

    def pause(self, paused: bool) -> None:
        """Stop reading for now, or resume; a pause does not count as silence."""
        ...

    def set_read_timeout(self, seconds: float) -> None:
        """From now on, a silence of `seconds` loses the exchange."""
        ...

    def end_within(self, seconds: float) -> None:
        """Bound the rest of an exchange whose content is not needed: to a silence of at most `seconds`."""
        ...

    def abort(self, loss: Loss) -> None:
        """Abort the exchange: a waiting caller gets ExchangeLost(loss), and the connection is closed."""
        ...

    def close(self) -> None:
        """Release the connection for another request; an incomplete exchange's connection is closed instead."""
        ...


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
        exchange = self.request(address, method, target, headers=headers, body=body, read_timeout_s=read_timeout_s)
        try:
            await exchange.head()
        except BaseException:  # cancelled, too: a connection with a response under way cannot be reused
            exchange.close()
            raise
        return exchange


class ServerRequest(Protocol):
    """A complete request that a server received, and its response. No method waits."""

    @property
    def address(self) -> str:
        """The client's IP address; "" where it is not known."""
        ...

    @property
    def peer(self) -> str:
        """The id of the node that sent it, by the certificate of its connection; "" where there is none."""
        ...

    @property
    def method(self) -> str:
        """The method; GET also for HEAD, whose response has no body."""
        ...

    @property
    def path(self) -> str:
        """The path, percent-decoded, without the query."""
        ...

    @property
    def target(self) -> str:
        """The path and the query, as the client sent them."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The request's headers, by names in lower case."""
        ...

    @property
    def body(self) -> bytes:
        """The complete body; b"" after `forget_body`."""
        ...

    @property
    def is_gone(self) -> bool:
        """True once the client has closed its connection."""
        ...

    @property
    def is_congested(self) -> bool:
        """True while the client reads less than it is sent."""
        ...

    def when_gone(self, call: Callable[[], None]) -> None:
        """Set the callback for a client that leaves before it has the response; one that is gone calls it at once.

        The last one set counts.
        """
        ...

    def when_congested(self, call: Callable[[bool], None]) -> None:
        """Set the callback for back-pressure: True when the client lags, maybe at once, False once it has caught up."""
        ...

    def forget_body(self) -> None:
        """Release the body: it is empty from now on, and holds no memory until the response ends."""
        ...

    def add_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Add headers to the response. Call it before the response begins; the last value of a name counts."""
        ...

    def accept(self, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send an interim response (102): the request was accepted, and its response takes time.

        A later call is a keep-alive. Nothing happens once the response has begun. more: headers.
        """
        ...

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        more: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Send the whole response. content_type: b"" for none; more: headers. Raises RuntimeError for a second one."""
        ...

    def begin(self, status: int, content_type: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the head of a response whose body is written in parts. more: headers."""
        ...

    def write(self, data: bytes) -> None:
        """Send a part of the body, after `begin`; nothing is sent to a client that is gone."""
        ...

    def end(self, last: bytes = b"") -> None:
        """Send the last part and end the response, once: a second call does nothing."""
        ...


@dataclass(frozen=True)
class AlternateProtocol:
    """A protocol other than HTTP on a server's port: `take_over` handles connections that begin with `preface`."""

    preface: bytes
    take_over: Callable[[asyncio.Transport], asyncio.Protocol]
