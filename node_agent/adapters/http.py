"""A small HTTP/1.1 client on httptools: to the engine, to peers, to IMDS.

Why not a library: a token passes here, and this costs a third of the CPU of a general client (docs/performance.md).
It does what it needs and no more: one exchange at a time on a connection, idle connections kept for a moment,
bounded buffers with back-pressure, one timer for each connection instead of one for each read.

An exchange that breaks raises ExchangeLost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import httptools

from node_agent.core.addresses import Address
from node_agent.ports import ExchangeLost

CONNECT_TIMEOUT_S = 2.0
IDLE_S = 3.0
"""How long an idle connection may be used again: uvicorn, and so vLLM, closes it after 5 s."""

MAX_IDLE = 64
MAX_HELD_BYTES = 1024 * 1024
"""Received and not yet read, at which a connection stops reading."""


class _Connection(asyncio.Protocol):
    """One connection and the exchange on it; callbacks are httptools'."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.done = False
        self.keep_alive = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._head_seen = False
        self._parts: list[bytes] = []
        self._held = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self._heard_at = 0.0
        self._silence_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # create_connection gives a Transport

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if self._parser is None:
            self.abort("broken")  # it spoke without being asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort("broken")
            return
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done and self._lost is None:
            self._lost = "eof" if exc is None else "reset"
        self._transport = None
        self._stop_timer()
        self._wake()

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._parser is not None:
            self.status = self._parser.get_status_code()
            self.keep_alive = self._parser.should_keep_alive()
            self._head_seen = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._held += len(body)
        if self._held > MAX_HELD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self.done = True
        self._stop_timer()

    # the exchange

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._lost is None

    @property
    def reusable(self) -> bool:
        return self.done and self.keep_alive and self.usable and not self._paused

    def begin(self, request: bytes, silence_s: float) -> None:
        self.status, self.headers, self.done, self._head_seen = 0, {}, False, False
        self._parts, self._held = [], 0  # a body that nobody read is no part of the next one
        self._parser = httptools.HttpResponseParser(self)
        self._heard_at = self._loop.time()
        self.allow_silence(silence_s)
        if self._transport is None:
            self._lost = self._lost or "reset"
        else:
            self._transport.write(request)

    def allow_silence(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._stop_timer()
        self._timer = self._loop.call_later(silence_s, self._on_timer)

    def _on_timer(self) -> None:
        quiet_s = self._loop.time() - self._heard_at
        if self._paused or quiet_s < self._silence_s:
            rest_s = self._silence_s if self._paused else self._silence_s - quiet_s
            self._timer = self._loop.call_later(max(rest_s, 0.001), self._on_timer)
        else:
            self.abort("silence")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def head(self) -> None:
        while not self._head_seen:
            if self._lost is not None:
                raise ExchangeLost(self._lost)
            await self._wait()

    async def read(self) -> bytes:
        while not self._parts:
            if self.done:
                return b""
            if self._lost is not None:
                raise ExchangeLost(self._lost)
            await self._wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()
        return data

    def abort(self, why: str) -> None:
        if self._lost is None and not self.done:
            self._lost = why
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()
        self._wake()


class Exchange:
    """The Response port. Closing an unfinished one takes its connection along."""

    def __init__(self, client: HttpClient, address: Address, connection: _Connection) -> None:
        self._client = client
        self._address = address
        self._connection = connection
        self.status = connection.status
        self.headers: Mapping[bytes, bytes] = connection.headers

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get(b"content-type", b"").startswith(b"text/event-stream")

    async def read(self) -> bytes:
        """What arrived since the last read, b"" at the end. Raises ExchangeLost."""
        return await self._connection.read()

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body. Raises ExchangeLost, also where it is larger than `max_bytes`."""
        parts, size = [], 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > max_bytes:
                self.abort("too-large")
                raise ExchangeLost("too-large")
        return b"".join(parts)

    def allow_silence(self, seconds: float) -> None:
        """From now on, a silence of `seconds` loses the exchange."""
        self._connection.allow_silence(seconds)

    def abort(self, why: str) -> None:
        """Break it off: a reader that waits gets ExchangeLost(why); the server sees its client go."""
        self._connection.abort(why)

    def close(self) -> None:
        self._client.release(self._address, self._connection)


class HttpClient:
    """The Http port: connections to any number of addresses; at most MAX_IDLE idle ones for each.

    source: the local address that they come from; None for the system's choice.
    """

    def __init__(self, source: str | None = None) -> None:
        self._source = (source, 0) if source else None
        self._idle: dict[Address, list[_Connection]] = {}

    async def open(
        self,
        address: Address,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        silence_s: float,
    ) -> Exchange:
        """Send a request and wait for the head of its response. Raises ExchangeLost.

        silence_s: how long the other side may send nothing, now and, until `allow_silence`, later.
        """
        request = _encode(address, method, target, headers, body)
        while (idle := self._take_idle(address)) is not None:
            try:
                return await self._exchange(address, idle, request, silence_s)
            except ExchangeLost as lost:
                if lost.why not in ("eof", "reset"):
                    raise
                # The server closed it while it was idle: nothing was answered, so another connection may ask.
        return await self._exchange(address, await _connect(address, self._source), request, silence_s)

    async def _exchange(self, address: Address, connection: _Connection, request: bytes, silence_s: float) -> Exchange:
        connection.begin(request, silence_s)
        try:
            await connection.head()
        except BaseException:  # cancelled, too: a connection with an answer under way is of no further use
            connection.abort("abandoned")
            raise
        return Exchange(self, address, connection)

    def _take_idle(self, address: Address) -> _Connection | None:
        idle = self._idle.get(address, [])
        oldest = time.monotonic() - IDLE_S
        while idle:
            connection = idle.pop()
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.abort("idle")
        self._idle.pop(address, None)
        return None

    def release(self, address: Address, connection: _Connection) -> None:
        """Keep the connection for the next exchange where that is possible, or end it."""
        idle = self._idle.setdefault(address, [])
        if connection.reusable and len(idle) < MAX_IDLE:
            connection.idle_since = time.monotonic()
            idle.append(connection)
        else:
            connection.abort("closed")

    async def close(self) -> None:
        """End all idle connections, and give the loop the turn in which their sockets close."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort("closed")
        self._idle.clear()
        await asyncio.sleep(0)


async def _connect(address: Address, source: tuple[str, int] | None) -> _Connection:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(_Connection, address.host, address.port, local_addr=source)
    except TimeoutError:
        raise ExchangeLost("unreachable") from None
    except ConnectionRefusedError:
        raise ExchangeLost("refused") from None
    except OSError:
        raise ExchangeLost("unreachable") from None
    return connection


def _encode(address: Address, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"host: {address}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
