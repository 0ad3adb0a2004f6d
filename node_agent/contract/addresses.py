"""A node's address: IPv4 and a port.

Names and IPv6 are refused: peers' datagrams leave through an IPv4 socket that resolves no names, and a name would make
every send wait for a resolver. So are addresses that are unspecified, broadcast, or the instance's own metadata
service: a tag, or a peer, must not be able to point the fleet there.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address

_PORT = re.compile(r"[0-9]{1,5}")
_LONGEST = 21
"""255.255.255.255:65535"""


def read_node_address(text: str) -> tuple[str, int]:
    """Parse IPv4:port into host and port. Raises ValueError that says what is wrong with it."""
    if len(text) > _LONGEST:
        raise ValueError(f"not IPv4:port: {text[:_LONGEST]!r}...")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"not IPv4:port: {text!r} has no port")
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError(f"not IPv4:port: the port of {text!r} is no number from 1 to 65535")
    check_node_host(host)
    return host, int(port)


def check_node_host(host: str) -> None:
    """Raise ValueError where no node can be reached at that host."""
    try:
        address = IPv4Address(host)
    except AddressValueError:
        raise ValueError(f"{host!r} is no IPv4 address; names and IPv6 are not taken") from None
    if address.is_unspecified or address.is_multicast or address.is_reserved or address.is_link_local:
        raise ValueError(f"{host} is no address of a single node")


def node_address(text: object) -> str | None:
    """Return the text where it is a node's address; None where it is not."""
    if not isinstance(text, str):
        return None
    try:
        read_node_address(text)
    except ValueError:
        return None
    return text
