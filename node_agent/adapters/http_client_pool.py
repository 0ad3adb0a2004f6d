"""The HTTP client's idle connections, reused for a moment.

Rules kept here:

* the connection that became idle last is reused first;
* none is reused after a time;
* at most MAX_IDLE are kept for one address, and nothing of an address that is not used any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from node_agent.adapters.http_client_connection import Connection
from node_agent.core.common.address import Address

IDLE_S = 3.0
"""How long an idle connection may be reused: uvicorn, and so vLLM, closes it after 5 s."""

TLS_IDLE_S = 30.0
"""The same with TLS, which is spoken to peers only: they wait for 75 s, and a new connection costs a handshake."""

MAX_IDLE = 64


class ConnectionPool:
    """Idle connections by address. clock: returns seconds that never go back; idle_s: how long one may be reused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, idle_s: float = IDLE_S) -> None:
        self._clock = clock
        self._idle_s = idle_s
        self._idle: dict[Address, list[Connection]] = {}
        self._dropped_at = clock()

    def take(self, address: Address) -> Connection | None:
        """Remove and return a usable connection, None where there is none. Closes those that are too old."""
        idle = self._idle.get(address)
        if not idle:
            return None
        oldest = self._clock() - self._idle_s
        while idle:
            connection = idle.pop()
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.abort()
        del self._idle[address]
        return None

    def put(self, address: Address, connection: Connection) -> None:
        """Keep a connection for the next exchange where there is room, else close it."""
        now = self._clock()
        if now - self._dropped_at > self._idle_s:
            self._dropped_at = now
            self._drop_old(now - self._idle_s)
        idle = self._idle.setdefault(address, [])
        if len(idle) < MAX_IDLE:
            connection.idle_since = now
            idle.append(connection)
        else:
            connection.abort()

    def _drop_old(self, oldest: float) -> None:
        """Close the connections that are too old: nodes that are gone are never asked for again."""
        for address, connections in list(self._idle.items()):
            kept = []
            for connection in connections:
                if connection.usable and connection.idle_since >= oldest:
                    kept.append(connection)
                else:
                    connection.abort()
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]

    def clear(self) -> None:
        """Close all connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
