"""A small HTTP/1.1 client on httptools: to the engine, to peers, to IMDS.

Why not a library: every token passes here, and this costs a third of the CPU of a general client (docs/performance.md).
It does only what is needed: one exchange at a time on a connection (`adapters/http_client_exchange`), idle connections
reused for a moment, bounded buffers with back-pressure, one timer per exchange instead of one per read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

from node_agent.adapters.http_client_exchange import Connection, Exchange
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.ports import ExchangeLost, Http

CONNECT_TIMEOUT_S = 2.0
IDLE_S = 3.0
"""How long an idle connection may be reused: uvicorn, and so vLLM, closes it after 5 s."""

MAX_IDLE = 64


class HttpClient(Http):
    """The Http port: connections to any number of addresses; at most MAX_IDLE idle ones for each.

    source: the local address of the connections; None for the system's choice.
    """

    def __init__(self, source: str | None = None) -> None:
        self._source = (source, 0) if source else None
        self._idle: dict[Address, list[Connection]] = {}

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
    ) -> Exchange:
        """Send a request, as the port defines."""
        request = _encode(address, method, target, headers, body)
        connect, released = partial(_connect, address, self._source), partial(self._release, address)
        exchange = Exchange(
            request,
            read_timeout_s,
            connect,
            released,
            accept_timeout_s=accept_timeout_s,
            keepalive_timeout_s=keepalive_timeout_s,
            on_lost=on_lost,
        )
        if (idle := self._take_idle(address)) is not None:
            exchange.begin(idle, was_idle=True)
        return exchange

    def _take_idle(self, address: Address) -> Connection | None:
        idle = self._idle.get(address)
        if not idle:
            return None
        oldest = time.monotonic() - IDLE_S
        while idle:
            connection = idle.pop()
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.abort()
        del self._idle[address]
        return None

    def _release(self, address: Address, connection: Connection) -> None:
        """Store the connection for the next exchange where there is room, else close it."""
        idle = self._idle.setdefault(address, [])
        if len(idle) < MAX_IDLE:
            connection.idle_since = time.monotonic()
            idle.append(connection)
        else:
            connection.abort()

    async def close(self) -> None:
        """Close all idle connections, and yield to the loop so that their sockets close."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)


async def _connect(address: Address, source: tuple[str, int] | None) -> Connection:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(Connection, address.host, address.port, local_addr=source)
    except TimeoutError:
        raise ExchangeLost(LossReason.UNREACHABLE) from None
    except ConnectionRefusedError:
        raise ExchangeLost(LossReason.REFUSED) from None
    except OSError:
        raise ExchangeLost(LossReason.UNREACHABLE) from None
    return connection


def _encode(address: Address, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1\r\nhost: {address}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
