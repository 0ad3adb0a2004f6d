"""The cluster's keys: the one that a fleet signs with, and during a rotation one or two more that it accepts.

A key has an id, a hash of it: messages name the key that they were signed with, and logs, tags and `synkti cluster-key`
name keys without revealing them.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

_ID_BYTES = 4


class ClusterKey(NamedTuple):
    """One key. key_id: 8 hexadecimal digits, which reveal nothing about the secret."""

    key_id: str
    secret: bytes


def cluster_key(secret: bytes) -> ClusterKey:
    """Return the key with this secret."""
    return ClusterKey(
        hmac.new(secret, b"synkti: id of a cluster key", hashlib.sha256).digest()[:_ID_BYTES].hex(), secret
    )


class ClusterKeys:
    """The keys that a node has now; shared by all that sign and verify."""

    def __init__(self, current: bytes) -> None:
        self.current = cluster_key(current)
        self.accepted: tuple[ClusterKey, ...] = (self.current,)

    def by_id(self, key_id: str) -> ClusterKey | None:
        """Return the accepted key with this id."""
        return next((key for key in self.accepted if key.key_id == key_id), None)
