"""Decide whether the other side of a TLS connection is the node that it should be, by the key of its certificate.

The handshake has shown that the other side has the private half of the key. Rules kept here:

* a node that connects to a peer accepts the key that is on record for a node at that address, and no other;
* at an address where membership has no node yet, as at a start, the key of any node on record is accepted: the table
  of members is compared there, and no prompt is sent;
* a node that is connected to accepts the key of any node on record; the key identifies the node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum


class Rejection(StrEnum):
    """Why a peer is rejected; the value is a metric's label."""

    NO_KEY = "no-key"
    """Its certificate has no key of a node's kind."""

    UNKNOWN_KEY = "unknown-key"
    """Its key is none on record: it is of no node, or of one that was shut out, or not read here yet."""

    OTHER_NODE = "other-node"
    """Its key is that of another node than those at its address."""


def identify(
    public_key: str | None, node_of: Callable[[str], str | None], expected: Collection[str] = ()
) -> str | Rejection:
    """Return the id of the node on the other side, or why it is rejected.

    Args:
        public_key: of its certificate; None where that has none of a node's kind.
        node_of: returns the node that a key is on record for.
        expected: the ids of the nodes that it may be; empty for any.
    """
    if public_key is None:
        return Rejection.NO_KEY
    node_id = node_of(public_key)
    if node_id is None:
        return Rejection.UNKNOWN_KEY
    if expected and node_id not in expected:
        return Rejection.OTHER_NODE
    return node_id
