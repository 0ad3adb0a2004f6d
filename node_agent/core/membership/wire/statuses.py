"""Which statuses are valid: those that fit in a datagram, and those that this node can use."""

from __future__ import annotations

import re

from node_agent.contract.addresses import read_node_address
from node_agent.core.node.status import NodeStatus

MAX_INCARNATION = 2**53 - 1
"""Unix milliseconds of a time that no clock has, and the largest whole number that JSON keeps. A larger one is invalid:
a node that applied it could never apply a higher one in 64 bits."""

_PRINTABLE = re.compile(r"[!-~]+")
_CLIENT_ADDRESS = re.compile(r"([A-Za-z0-9._-]+:[0-9]{1,5})?")
MAX_TEXT_BYTES = {
    "instance_id": 64,
    "peer": 64,
    "front": 64,
    "zone": 32,
    "instance_type": 32,
    "model": 128,
    "version": 32,
    "public_key": 44,
}
"""Of each text, in bytes of UTF-8: an introduction must leave room in a datagram for what it is sent with."""


def check_status(status: NodeStatus) -> None:
    """Raise ValueError for a status that would not fit in a datagram; the message names the text that is too long."""
    for name, text in texts_of(status).items():
        if len(text.encode()) > MAX_TEXT_BYTES[name]:
            raise ValueError(
                f"{name} {text!r} is longer than {MAX_TEXT_BYTES[name]} bytes, which is all that peers take"
            )


def check_peer(status: NodeStatus) -> None:
    """Check that this node can use a status that it received.

    Its texts must fit in a line of a log, its id in a header's value, and datagrams must reach its peer API.

    Raises:
        ValueError: It cannot; the message names what is wrong.
    """
    check_status(status)
    if not all(text.isprintable() for text in texts_of(status).values()):
        raise ValueError("a text with characters that cannot be printed")
    if not _PRINTABLE.fullmatch(status.instance_id) or not _CLIENT_ADDRESS.fullmatch(status.client_address):
        raise ValueError(f"instance {status.instance_id!r} at {status.client_address!r}")
    read_node_address(status.peer_address)
    check_incarnation(status.incarnation)


def check_incarnation(incarnation: int) -> None:
    """Raise ValueError for an incarnation above MAX_INCARNATION."""
    if incarnation > MAX_INCARNATION:
        raise ValueError(f"incarnation {incarnation} is of no clock")


def texts_of(status: NodeStatus) -> dict[str, str]:
    """Return the texts of a status in the order in which an introduction has them."""
    return {
        "instance_id": status.instance_id,
        "peer": status.peer_address,
        "front": status.client_address,
        "zone": status.pool.zone,
        "instance_type": status.pool.instance_type,
        "model": status.model,
        "version": status.version,
        "public_key": status.public_key,
    }
