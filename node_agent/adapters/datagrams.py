"""Send and receive datagrams between nodes: UDP on the peer API's port number, one socket for both directions."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from node_agent.contract.addresses import node_address
from node_agent.core.common.address import Address

_log = logging.getLogger(__name__)


class UdpDatagrams(asyncio.DatagramProtocol):
    """The Datagrams port, once it is open; before, nothing is sent.

    unsent: datagrams that could not be sent. To the sender they are lost like any other: nothing raises.
    """

    def __init__(self) -> None:
        self._receive: Callable[[bytes], None] = _ignore
        self._transport: asyncio.DatagramTransport | None = None
        self.unsent = 0

    async def open(self, bound: socket.socket, receive: Callable[[bytes], None]) -> None:
        """Open the port. receive: called with each datagram, without its sender's address, which anyone can forge."""
        self._receive = receive
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=bound)

    def send(self, to: Address, data: bytes) -> None:
        """Send a datagram; where that fails, it is counted in `unsent`, and nothing raises.

        A host that is no IPv4 address never reaches the transport: uvloop raises for it, and asyncio resolves names, or
        closes the socket.
        """
        if self._transport is None:
            return
        if not _can_be_sent_to(to):
            self.unsent += 1
            return
        try:
            self._transport.sendto(data, (to.host, to.port))
        except (OSError, ValueError, OverflowError, TypeError, RuntimeError):
            self.unsent += 1

    def close(self) -> None:
        """Close the socket at once; later datagrams are dropped in both directions."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport: `send` works from now on."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Pass a datagram to the receiver, without `addr`, which anyone can forge."""
        self._receive(data)

    def error_received(self, exc: Exception) -> None:
        """Ignore an unreachable peer: membership detects its silence."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Record, and log, that an error closed the socket: peers then have only this node's HTTP ports.

        After `close` there is nothing to record.
        """
        if self._transport is not None:
            self._transport = None
            _log.error("the socket of peers' datagrams is closed: %s", exc)


@lru_cache(maxsize=4_096)
def _can_be_sent_to(address: Address) -> bool:
    return node_address(str(address)) is not None


def _ignore(data: bytes) -> None:
    """Drop a datagram that arrives before `open`."""
