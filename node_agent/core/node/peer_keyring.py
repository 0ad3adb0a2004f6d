"""The keys that this node shares with each peer: what it signs for a peer with, and verifies a peer's messages with.

    key = HMAC-SHA-256(the cluster's key, the secret of the pair)

The secret of a pair of nodes is derived from the private key of one and the public key of the other (ECDH). So neither
another node nor a thief of the cluster's key can speak for a node, and the cluster's key alone lets no one in.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from node_agent.core.common.cluster_keys import ClusterKey, ClusterKeys
from node_agent.core.common.request_auth import Refusal
from node_agent.core.node.vouched_nodes import VouchedNodes

MAX_SECRETS = 8_192
_PURPOSE = b"synkti: messages of a pair, v1"


class PeerKeyring:
    """The keys shared with peers.

    agree: derives the secret of a pair from a peer's public key; raises ValueError for a text that is none.
    """

    def __init__(self, cluster_keys: ClusterKeys, vouched: VouchedNodes, agree: Callable[[str], bytes]) -> None:
        self._cluster_keys = cluster_keys
        self._vouched = vouched
        self._agree = agree
        self._secrets: dict[str, bytes | None] = {}
        self._keys: dict[tuple[str, str], ClusterKey] = {}

    def shared_key(self, instance_id: str, key_id: str) -> ClusterKey | Refusal:
        """Return the key shared with a node under an accepted cluster key; or why there is none."""
        cluster = self._cluster_keys.by_id(key_id)
        if cluster is None:
            return Refusal.FOREIGN_KEY
        if self._vouched.is_shut_out(instance_id):
            return Refusal.SHUT_OUT
        public = self._vouched.public_key(instance_id)
        key = None if public is None else self.pair_key(public, cluster)
        return Refusal.UNKNOWN_NODE if key is None else key

    def pair_key(self, public: str, cluster: ClusterKey) -> ClusterKey | None:
        """Return the key shared with the owner of a public key; None where the text is none."""
        key = self._keys.get((public, cluster.key_id))
        if key is None and (secret := self._secret(public)) is not None:
            key = ClusterKey(cluster.key_id, hmac.new(cluster.secret, _PURPOSE + secret, hashlib.sha256).digest())
            _bound(self._keys)
            self._keys[public, cluster.key_id] = key
        return key

    def _secret(self, public: str) -> bytes | None:
        """Return the secret shared with the owner of a public key; None where the text is no key."""
        if public not in self._secrets:
            _bound(self._secrets)
            try:
                self._secrets[public] = self._agree(public)
            except ValueError:
                self._secrets[public] = None
        return self._secrets[public]

    def shared_keys(self, instance_id: str) -> tuple[ClusterKey, ...]:
        """Return all keys shared with a node, one for each accepted cluster key."""
        found = (self.shared_key(instance_id, key.key_id) for key in self._cluster_keys.accepted)
        return tuple(key for key in found if not isinstance(key, Refusal))

    def signing_key(self, instance_id: str) -> ClusterKey | Refusal:
        """Return the key to sign with for a node, made from a cluster key that it has; or why there is none."""
        return self.shared_key(instance_id, self.cluster_key_for(instance_id).key_id)

    def cluster_key_for(self, instance_id: str) -> ClusterKey:
        """Return the cluster key to use for a node: the current one, unless the node has not read that yet."""
        return self._cluster_keys.for_receiver(self._vouched.cluster_keys(instance_id))

    @property
    def accepted(self) -> tuple[ClusterKey, ...]:
        """The accepted cluster keys, the current one first."""
        return self._cluster_keys.accepted


def _bound(cache: dict[str, bytes | None] | dict[tuple[str, str], ClusterKey]) -> None:
    """Make room in a cache: what is removed is derived again."""
    if len(cache) >= MAX_SECRETS:
        cache.clear()
