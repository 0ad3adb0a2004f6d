"""One HTTP/1.1 exchange of a client, and the connection that it runs on; callbacks are httptools'.

Rules kept here:

* an exchange ends once: complete, or lost for one reason, the first that was given;
* unread data is bounded: beyond MAX_HELD_BYTES the connection stops reading;
* a silence counts only while this side reads;
* a request on a reused connection that the server had closed while idle is sent again, on a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httptools

from node_agent.contract.names import SIGNS_HEADER
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.ports import ExchangeLost

MAX_HELD_BYTES = 1024 * 1024
"""Received and unread bytes at which a connection stops reading."""

MAX_HEAD_BYTES = 64 * 1024
"""With the interim responses before it: keep-alives for twenty minutes."""

_CLOSED_WHILE_IDLE = (LossReason.EOF, LossReason.RESET)
"""How an exchange on a reused connection is lost that the server had closed before it received the request."""

_GRACE_S = 0.25
"""From an elapsed timeout to the loss: timers run before received data is read, and if this process was suspended, data
arrived meanwhile.
"""


class Connection(asyncio.Protocol):
    """A connection while it is idle; an exchange replaces it as the transport's protocol.

    exchange: the active one.
    """

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport: the connection is usable from now on."""
        self.transport = transport  # type: ignore[assignment] # create_connection gives a Transport

    def data_received(self, data: bytes) -> None:
        """Abort the connection: an idle one has no request that data could answer."""
        self.abort()  # data without a request

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the transport: the connection is not usable any more."""
        self.transport = None

    def begin(self, exchange: Exchange) -> None:
        """Make an exchange the active one: it receives the transport's callbacks from now on."""
        self.exchange = exchange
        if self.transport is not None:
            self.transport.set_protocol(exchange)

    def end(self) -> None:
        """End the active exchange: this idle connection receives the transport's callbacks again."""
        self.exchange = None
        if self.transport is not None:
            self.transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether a request can be sent: the transport is connected and not closing."""
        return self.transport is not None and not self.transport.is_closing()

    def abort(self) -> None:
        """Close the transport at once, without sending what is buffered."""
        if self.transport is not None:
            self.transport.abort()


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
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._request = request
        self._read_timeout_s = read_timeout_s
        self._accept_timeout_s = accept_timeout_s
        self._keepalive_timeout_s = keepalive_timeout_s
        self._sends_keepalives = False
        self._connect = connect
        self._released = released
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._was_reused = False
        self._connecting: asyncio.Task[Connection] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._head_bytes = 0
        self._head_seen = False
        self._keeps_alive = False
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
        self._timer: asyncio.TimerHandle | None = None
        self._overdue_since = 0.0
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
        self.headers = {}
        self.last_read_at = self._loop.time()
        self._sends_keepalives = False
        self._set_timer(self._timeout_s())
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
        except httptools.HttpParserCallbackError:
            raise  # a bug of the sink
        except httptools.HttpParserError:
            self.abort(LossReason.BROKEN)
            return
        if self._sink is not None:
            if self._done:
                self._wake()
            return
        self._was_reused = False
        if not self.first_read_at:
            self.first_read_at = self.last_read_at
            if self._accept_timeout_s is not None or self._sends_keepalives:
                self._accept_timeout_s = None
                self._set_timer(self._timeout_s())
        if not self._head_seen:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
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

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header under its lower-case name; the last value counts, over the heads of interim responses too."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Set the status. An interim response (1xx) is no head; with SIGNS_HEADER it announces keep-alives."""
        if self._parser is not None:
            self.status = self._parser.get_status_code()
            self._head_seen = self.status >= 200  # before it there may be interim ones
            self._sends_keepalives = self._sends_keepalives or (not self._head_seen and SIGNS_HEADER in self.headers)
            self._keeps_alive = self._parser.should_keep_alive()

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
        self._done = self._head_seen
        if self._done:
            self._stop_timer()

    # the Response port

    @property
    def is_event_stream(self) -> bool:
        """Whether the content type is that of server-sent events."""
        return self.headers.get(b"content-type", b"").startswith(b"text/event-stream")

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost."""
        while not self._head_seen:
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
        self._read_timeout_s = seconds
        self._set_timer(self._timeout_s())

    def end_within(self, seconds: float) -> None:
        """Bound the wait for the end: from now on, a silence of `seconds` loses the exchange."""
        self.set_read_timeout(seconds)

    def _timeout_s(self) -> float:
        """Return how long the other side may be silent now."""
        if self._accept_timeout_s is not None:
            return self._accept_timeout_s
        return (
            min(self._read_timeout_s, self._keepalive_timeout_s)
            if self._sends_keepalives and self._keepalive_timeout_s
            else self._read_timeout_s
        )

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        if not self._done and self._loss is None:
            self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        quiet_s = self._loop.time() - self.last_read_at
        is_paused = self._buffer_is_full or self._pause_requested
        allowed_s = self._timeout_s()
        if is_paused or quiet_s < allowed_s:
            rest_s = allowed_s if is_paused else allowed_s - quiet_s
            self._set_timer(max(rest_s, 0.001))
        elif self._overdue_since != self.last_read_at:
            self._overdue_since = self.last_read_at
            self._set_timer(min(_GRACE_S, allowed_s / 4))
        else:
            self.abort(LossReason.SILENCE)

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
        is_clear = self._done and self._keeps_alive and not self._buffer_is_full and not self._pause_requested
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
