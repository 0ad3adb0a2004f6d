"""Membership's datagrams."""

from __future__ import annotations

from typing import Protocol

from node_agent.core.common.address import Address


class Datagrams(Protocol):
    """Messages to peers; they may be lost, repeated or late."""

    def send(self, to: Address, data: bytes) -> None:
        """Send a datagram without waiting; one that cannot be sent is dropped. to.host: an IPv4 address."""
        ...
