"""Parse and format network addresses: host and port."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse host:port. Raises ValueError.

    A node's address was validated before (`contract/addresses`), on receipt: in a tag, a setting or a peer's message.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError(f"not host:port: {text[:100]!r}")
    return Address(host, int(port))
