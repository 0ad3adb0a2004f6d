"""One HTTP/1.1 exchange of a client: a request, and its response as it arrives; callbacks are httptools'.

Rules kept here:

* an exchange ends once: complete, or lost for one reason, the first that was given;
* unread data is bounded: beyond MAX_HELD_BYTES the connection stops reading;
* a silence loses the exchange (`core/http/silence_timeout`), and counts only while this side reads;
* what a server sends behind the response is no part of it, and the connection is not used again;
* a request on a reused connection that the server had closed while idle is sent again, on a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import httptools

from node_agent.adapters.http_client_connection import Connection
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.core.http.response_head import ResponseHead
from node_agent.core.http.silence_timeout import SilenceTimeout
from node_agent.ports import ExchangeLost

MAX_HELD_BYTES = 1024 * 1024
"""Received and unread bytes at which a connection stops reading."""

_CLOSED_WHILE_IDLE = (LossReason.EOF, LossReason.RESET)
"""How an exchange on a reused connection is lost that the server had closed before it received the request."""


class _UnrequestedResponseError(Exception):
    """The server sent a message behind the response."""


class Exchange(asyncio.Protocol):
    """The Response port, and the protocol of its connection while it lasts.

    Args:
        request: the encoded request.
        read_timeout_s: how long the other side may send nothing.
        connect: makes a connection; raises ExchangeLost.
        released: receives a connection that can be reused.
        accept_timeout_s: seconds until the first bytes, None for the read timeout.
        keepalive_timeout_s: the longest silence once the other side has announced keep-alives.
        on_lost: receives the loss once, where the exchange is lost.
    """

    def __init__(
        self,
        request: bytes,
        read_timeout_s: float,
        connect: Callable[[], Awaitable[Connection]],
        released: Callable[[Connection], None],
        *,
        accept_timeout_s: float | None = None,
        keepalive_timeout_s: float | None = None,
        on_lost: Callable[[Loss], None] | None = None,
    ) -> None:
        self._request = request
        self._connect = connect
        self._released = released
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._was_reused = False
        self._connecting: asyncio.Task[Connection] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._head = ResponseHead()
        self._done = False
        self._loss: Loss | None = None
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._sink: Callable[[bytes], None] | None = None
        self._buffer_is_full = False  # this side holds too much
        self._pause_requested = False  # by the reader of the body
        self._waiter: asyncio.Future[None] | None = None
        self.first_read_at = 0.0
        self.last_read_at = 0.0
        self.reads = 0
        self._silence = SilenceTimeout(read_timeout_s, accept_timeout_s, keepalive_timeout_s)
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time

    def begin(self, connection: Connection, *, was_idle: bool) -> None:
        """Send the request. was_idle: whether the connection was reused, and may have been closed meanwhile."""
        self._connection, self._was_reused = connection, was_idle
        if connection.transport is None:
            self.fail(LossReason.RESET)
            return
        connection.begin(self)
        self._parser = httptools.HttpResponseParser(self)
        self.last_read_at = self._loop.time()
        self._set_timer(self._silence.allowed_s())
        connection.transport.write(self._request)

    # the connection's callbacks

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; the exchange is aborted as broken where they are not HTTP, or the head is too large."""
        self.last_read_at = self._now()
        self.reads += 1
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._done:  # what follows the response is ignored, and the connection not used again
                self._parser, self._head.keeps_alive = None, False
            elif isinstance(error, httptools.HttpParserCallbackError):
                raise  # a bug of the sink
            else:
                self.abort(LossReason.BROKEN)
                return
        if self._sink is not None:
            if self._done:
                self._wake()
            return
        self._was_reused = False
        if not self.first_read_at:
            self.first_read_at = self.last_read_at
            if self._silence.on_first_bytes():
                self._set_timer(self._silence.allowed_s())
        if not self._head.is_complete and not self._head.fits(len(data)):
            self.abort(LossReason.BROKEN)
            return
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lose the exchange: eof where the server closed the connection, reset after an error."""
        if self._connection is not None:
            self._connection.connection_lost(exc)
        self.fail(LossReason.EOF if exc is None else LossReason.RESET)

    def fail(self, loss: Loss) -> None:
        """Record that the connection is gone; does nothing after the exchange's end."""
        if self._done or self._loss is not None:
            return
        self._loss = loss
        self._stop_timer()
        if self._on_lost is not None and not self._was_reused:
            self._on_lost(loss)
        self._wake()

    # httptools

    def on_message_begin(self) -> None:
        """Raise an error, which ends the parsing, for a message behind the response."""
        if self._done:
            raise _UnrequestedResponseError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header in the head."""
        self._head.add_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head, or an interim response, which may announce keep-alives."""
        if self._parser is not None:
            self._head.end(self._parser.get_status_code(), keeps_alive=self._parser.should_keep_alive())
            self._silence.sends_keepalives = self._head.announces_keepalives

    def on_body(self, body: bytes) -> None:
        """Pass bytes of the body to the sink; without one, hold them, and stop reading at MAX_HELD_BYTES."""
        if self._sink is not None:
            self._sink(body)
            return
        self._buffer.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > MAX_HELD_BYTES:
            self._buffer_is_full = True
            self._update_reading()

    def on_message_complete(self) -> None:
        """Complete the exchange, unless the message was an interim response."""
        self._done = self._head.is_complete
        if self._done:
            self._stop_timer()

    # the Response port

    @property
    def status(self) -> int:
        """The HTTP status; final once `head` has returned."""
        return self._head.status

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The headers by names in lower case; complete once `head` has returned."""
        return self._head.headers

    @property
    def is_event_stream(self) -> bool:
        """Whether the content type is that of server-sent events."""
        return self._head.is_event_stream

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost."""
        while not self._head.is_complete:
            if self._loss is not None:
                if not self._was_reused or self._loss not in _CLOSED_WHILE_IDLE:
                    raise ExchangeLost(self._loss)
                self._loss = None  # the server had closed it before a response: send it on another connection
                self._connection = None
            if self._connection is None:
                self.begin(await self._connected(), was_idle=False)
            else:
                await self._wait()
        self._request = b""

    async def _connected(self) -> Connection:
        self._connecting = connecting = asyncio.ensure_future(self._connect())
        try:
            return await connecting
        except asyncio.CancelledError:
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                connecting.result().abort()  # connected at this moment, and otherwise unreferenced
            if self._loss is None:
                raise
            raise ExchangeLost(self._loss) from None
        except ExchangeLost as lost:
            self._was_reused = False
            self.fail(lost.loss)
            raise
        finally:
            self._connecting = None
            del connecting  # its exception's traceback references this frame, a cycle for the collector

    async def read(self) -> bytes:
        """Return what arrived since the last read, empty at the end. Raises ExchangeLost."""
        while not self._buffer:
            if self._done:
                return b""
            if self._loss is not None:
                raise ExchangeLost(self._loss)
            await self._wait()
        return self._drain_buffer()

    def _drain_buffer(self) -> bytes:
        parts = self._buffer
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered_bytes = 0
        if self._buffer_is_full:
            self._buffer_is_full = False
            self._update_reading()
        return data

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, also where it is larger than `max_bytes`."""
        parts, size = [], 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > max_bytes:
                self.abort(LossReason.TOO_LARGE)
                raise ExchangeLost(LossReason.TOO_LARGE)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Pass data to `sink` as it arrives, until the end.

        Raises:
            ExchangeLost: the response is incomplete; the sink has all received data.
        """
        self._sink = sink
        if self._buffer:
            sink(self._drain_buffer())
        while not self._done:
            if self._loss is not None:
                raise ExchangeLost(self._loss)
            await self._wait()

    def pause(self, paused: bool) -> None:
        """Stop reading from the connection, or continue."""
        self._pause_requested = paused
        self._update_reading()

    def _update_reading(self) -> None:
        connection = self._connection
        if connection is None or connection.transport is None or connection.exchange is not self:
            return
        reads = connection.transport.is_reading()
        if reads and (self._buffer_is_full or self._pause_requested):
            connection.transport.pause_reading()
        elif not reads and not (self._buffer_is_full or self._pause_requested):
            self.last_read_at = self._loop.time()
            connection.transport.resume_reading()

    def set_read_timeout(self, seconds: float) -> None:
        """From now on, a silence of `seconds` loses the exchange."""
        self._silence.read_timeout_s = seconds
        self._set_timer(self._silence.allowed_s())

    def end_within(self, seconds: float) -> None:
        """Bound the wait for the end: from now on, a silence of `seconds` loses the exchange."""
        self.set_read_timeout(seconds)

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        if not self._done and self._loss is None:
            self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        is_paused = self._buffer_is_full or self._pause_requested
        wait_s = self._silence.next_check_s(self._loop.time(), self.last_read_at, is_paused=is_paused)
        if wait_s is None:
            self.abort(LossReason.SILENCE)
        else:
            self._set_timer(wait_s)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self, loss: Loss) -> None:
        """Abort the exchange: a waiting reader gets ExchangeLost(loss), and the server's connection closes."""
        was_over = self._done
        self._was_reused = False
        self.fail(loss)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None and not was_over:
            self._connection.end()
            self._connection.abort()

    def close(self) -> None:
        """Finish this side's use. A complete exchange releases its connection; an incomplete one closes it."""
        connection, self._connection = self._connection, None
        self._stop_timer()
        # The parser and the sink reference this exchange: break the cycles.
        self._parser, self._sink, self._on_lost = None, None, None
        if connection is None or connection.exchange is not self:
            return
        connection.end()
        is_clear = self._done and self._head.keeps_alive and not self._buffer_is_full and not self._pause_requested
        if is_clear and connection.usable:
            self._released(connection)
        else:
            self._loss = self._loss or LossReason.CLOSED
            connection.abort()

    # waiting

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
