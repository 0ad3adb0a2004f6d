"""Where a door is: host and port."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address behind host:port. Raises ValueError.

    Of a node, it was checked before (`contract/addresses`), where it came in: in a tag, a setting or a peer's message.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError(f"not host:port: {text[:100]!r}")
    return Address(host, int(port))
