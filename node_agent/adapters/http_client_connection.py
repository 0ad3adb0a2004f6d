"""One TCP connection of the HTTP client: opened, lent to one exchange at a time, idle in between."""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol

from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.ports import ExchangeLost

CONNECT_TIMEOUT_S = 2.0


class Connection(asyncio.Protocol):
    """A connection while it is idle; an exchange replaces it as the transport's protocol.

    exchange: the active one; None while the connection is idle.
    idle_since: when it became idle, in seconds of its pool's clock.
    """

    def __init__(self) -> None:
        self.exchange: asyncio.Protocol | None = None
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

    def begin(self, exchange: asyncio.Protocol) -> None:
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


class ClientTls(Protocol):
    """The TLS of a client whose servers are identified by their keys."""

    @property
    def client(self) -> ssl.SSLContext:
        """The context of new connections."""
        ...

    def accepts_server(self, transport: asyncio.BaseTransport | None, address: Address) -> bool:
        """Return whether a new connection to an address ends at the server that is expected there."""
        ...


async def connect(address: Address, source: tuple[str, int] | None, tls: ClientTls | None = None) -> Connection:
    """Return a new connection.

    Args:
        address: the server's.
        source: the local address and port; None for the system's choice.
        tls: None for a connection without TLS.

    Raises:
        ExchangeLost: refused, or unreachable within CONNECT_TIMEOUT_S; so is another server than the expected one.
    """
    ssl_context = None if tls is None else tls.client
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                Connection, address.host, address.port, local_addr=source, ssl=ssl_context
            )
    except TimeoutError:
        raise ExchangeLost(LossReason.UNREACHABLE) from None
    except ConnectionRefusedError:
        raise ExchangeLost(LossReason.REFUSED) from None
    except OSError:
        raise ExchangeLost(LossReason.UNREACHABLE) from None
    if tls is not None and not tls.accepts_server(connection.transport, address):
        connection.abort()
        raise ExchangeLost(LossReason.UNREACHABLE)
    return connection
