"""A small HTTP/1.1 client on httptools: to the engine, to peers, to IMDS.

Why not a library: every token passes here, and this costs a third of the CPU of a general client (docs/performance.md).
It does only what is needed: one exchange at a time on a connection (`adapters/http_client_exchange`), idle connections
reused for a moment (`adapters/http_client_pool`), bounded buffers with back-pressure, one timer per exchange instead of
one per read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from node_agent.adapters.http_client_connection import ClientTls, connect
from node_agent.adapters.http_client_exchange import Exchange
from node_agent.adapters.http_client_pool import TLS_IDLE_S, ConnectionPool
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import Loss
from node_agent.ports import Http


class HttpClient(Http):
    """The Http port: connections to any number of addresses, reused where they are idle.

    source: the local address of the connections; None for the system's choice. tls: None for connections without TLS.
    """

    def __init__(self, source: str | None = None, tls: ClientTls | None = None) -> None:
        self._source = (source, 0) if source else None
        self._tls = tls
        self._pool = ConnectionPool() if tls is None else ConnectionPool(idle_s=TLS_IDLE_S)

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
        exchange = Exchange(
            _encode(address, method, target, headers, body),
            read_timeout_s,
            partial(connect, address, self._source, self._tls),
            partial(self._pool.put, address),
            accept_timeout_s=accept_timeout_s,
            keepalive_timeout_s=keepalive_timeout_s,
            on_lost=on_lost,
        )
        if (idle := self._pool.take(address)) is not None:
            exchange.begin(idle, was_idle=True)
        return exchange

    async def close(self) -> None:
        """Close all idle connections, and yield to the loop so that their sockets close."""
        self._pool.clear()
        await asyncio.sleep(0)


def _encode(address: Address, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1\r\nhost: {address}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
