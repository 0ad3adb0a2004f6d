"""Which nodes EC2 vouches for: running instances of the cluster, each with its address and its public key.

Only an instance itself may write its tag with the key (its role's condition), and EC2 names its private address. So a
node that has the cluster's key, but is no instance of the cluster, is not vouched for, whatever it publishes.

A node that an operator has shut out is not vouched for, whatever its other tags are.

What was read stays valid while EC2 is away: nodes that are known continue, new ones wait. EC2's listings are eventually
consistent, and a node removes its tags a moment before it ends: so a node counts as gone when MISSING_READS listings in
a row do not have it.
"""

from __future__ import annotations

from collections.abc import Iterable

from node_agent.core.node.status import NodeStatus, TaggedNode

MISSING_READS = 3
MAX_NODES = 4_000
"""Twice as many as members."""


class VouchedNodes:
    """The nodes of EC2's last listings."""

    def __init__(self) -> None:
        self._nodes: dict[str, TaggedNode] = {}
        self._by_key: dict[str, str] = {}
        self._missing: dict[str, int] = {}

    def update(self, listed: Iterable[TaggedNode], *, is_complete: bool = True) -> None:
        """Take over a listing. is_complete: whether a node that is not in it is missing."""
        nodes = {node.instance_id: node for node in listed if node.public_key or node.is_shut_out}
        for node in nodes.values():
            if node.instance_id in self._nodes or len(self._nodes) < MAX_NODES:
                self._nodes[node.instance_id] = node
                self._missing.pop(node.instance_id, None)
        if is_complete:
            for instance_id in self._nodes.keys() - nodes.keys():
                self._missing[instance_id] = self._missing.get(instance_id, 0) + 1
                if self._missing[instance_id] >= MISSING_READS:
                    del self._missing[instance_id], self._nodes[instance_id]
        self._by_key = {key: name for name in self._nodes if (key := self.public_key(name)) is not None}

    def vouches_for(self, status: NodeStatus) -> bool:
        """Return whether EC2 has this node, at this address, with this key."""
        node = self._nodes.get(status.instance_id)
        return (
            node is not None
            and not node.is_shut_out
            and node.peer_address == status.peer_address
            and bool(status.public_key)
            and node.public_key == status.public_key
        )

    def public_key(self, node_id: str) -> str | None:
        """Return the public key of a node, by its instance id; None where EC2 vouches for none."""
        node = self._nodes.get(node_id)
        return None if node is None or node.is_shut_out else node.public_key

    def node_at(self, address: str) -> str | None:
        """Return the instance id of the node whose peer API is at this address; None where EC2 vouches for none."""
        found = (name for name, node in self._nodes.items() if node.peer_address == address and not node.is_shut_out)
        return next(found, None)

    def is_shut_out(self, node_id: str) -> bool:
        """Return whether an operator has excluded this node from the fleet."""
        node = self._nodes.get(node_id)
        return node is not None and node.is_shut_out

    def cluster_keys(self, node_id: str) -> tuple[str, ...]:
        """Return the ids of the cluster keys that a node accepts, as its tag has them; () where that is not known."""
        node = self._nodes.get(node_id)
        return () if node is None else node.cluster_keys

    def foreign_nodes(self, key_ids: tuple[str, ...]) -> list[str]:
        """Return the nodes that accept none of these cluster keys: with them this node makes no fleet."""
        return sorted(
            name
            for name, node in self._nodes.items()
            if node.cluster_keys and not node.is_shut_out and not set(node.cluster_keys).intersection(key_ids)
        )

    def node_of(self, public_key: str) -> str | None:
        """Return the instance id of the node with this public key; None where EC2 vouches for none."""
        return self._by_key.get(public_key)
