"""The keys that this node shares with each peer: what it signs for a peer with, and verifies a peer's messages with."""

from __future__ import annotations

from node_agent.core.common.cluster_keys import ClusterKey, ClusterKeys
from node_agent.core.common.request_auth import Refusal


class PeerKeyring:
    """The keys shared with peers, made from the cluster's keys."""

    def __init__(self, cluster_keys: ClusterKeys) -> None:
        self._cluster_keys = cluster_keys

    def shared_key(self, instance_id: str, key_id: str) -> ClusterKey | Refusal:
        """Return the key shared with a node under an accepted cluster key; or why there is none."""
        return self._cluster_keys.by_id(key_id) or Refusal.FOREIGN_KEY

    def shared_keys(self, instance_id: str) -> tuple[ClusterKey, ...]:
        """Return all keys shared with a node, one for each accepted cluster key."""
        found = (self.shared_key(instance_id, key.key_id) for key in self._cluster_keys.accepted)
        return tuple(key for key in found if not isinstance(key, Refusal))

    def signing_key(self, instance_id: str) -> ClusterKey | Refusal:
        """Return the key to sign with for a node; or why there is none."""
        return self.shared_key(instance_id, self._cluster_keys.current.key_id)
