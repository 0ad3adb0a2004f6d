"""Parse and format network addresses: host and port."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    """A host, by its name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that a text in the form host:port has.

    A node's address was validated before (`contract/addresses`), on receipt: in a tag, a setting or a peer's message.

    Raises:
        ValueError: The host is missing, or the port is not from 1 to 65535.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError(f"not host:port: {text[:100]!r}")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a listener on this host."""
    return host in ("localhost", "::1") or host.startswith("127.")
