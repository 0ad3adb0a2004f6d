"""The identities of nodes: what EC2 vouches for."""

from __future__ import annotations

from typing import Protocol


class PeerKeys(Protocol):
    """The public keys of the nodes that EC2 vouches for; neither method waits."""

    def public_key(self, node_id: str) -> str | None:
        """Return the public key of a node, by its instance id; None for a node that is no peer (any more)."""
        ...

    def node_of(self, public_key: str) -> str | None:
        """Return the instance id of the node with this public key; None where no peer has it."""
        ...
