"""The keys of membership's messages in a fleet whose nodes have keys of their own.

Two nodes that have each other's introductions use the key of their pair, so that no third node can speak for one of
them. A message of a node to one without its introduction (a JOIN, and its answer) has the cluster's key. An
introduction has the node's public key: it need not be vouched for, because a wrong one only makes its own messages
unreadable.
"""

from __future__ import annotations

from collections.abc import Iterator

from node_agent.core.node.peer_keyring import PeerKeyring
from node_agent.core.node.status import NodeStatus


class PairMessageKeys:
    """The MessageKeys of a node."""

    def __init__(self, keyring: PeerKeyring) -> None:
        self._keyring = keyring

    def to(self, receiver: NodeStatus | None) -> bytes:
        """Return the key for a message. receiver: None where one of the two lacks the other's introduction."""
        if receiver is None:
            return self._keyring.accepted[0].secret
        cluster = self._keyring.cluster_key_for(receiver.instance_id)
        key = self._keyring.pair_key(receiver.public_key, cluster)
        return cluster.secret if key is None else key.secret

    def of(self, sender: NodeStatus | None) -> Iterator[bytes]:
        """Yield the keys that a message may have. sender: None where it is not in the table."""
        for cluster in self._keyring.accepted:
            key = None if sender is None else self._keyring.pair_key(sender.public_key, cluster)
            if sender is None:
                yield cluster.secret
            elif key is not None:
                yield key.secret
