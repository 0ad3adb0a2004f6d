"""The keys of membership's messages: which one a message to a node is authenticated with, and which are accepted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from node_agent.core.common.cluster_keys import ClusterKeys
from node_agent.core.node.status import NodeStatus


class MessageKeys(Protocol):
    """The keys of messages, in bytes."""

    def to(self, receiver: NodeStatus | None) -> bytes:
        """Return the key for a message. receiver: None where it is not in the table."""
        ...

    def of(self, sender: NodeStatus | None) -> Iterable[bytes]:
        """Return the keys that a message may have. sender: None where it is not in the table."""
        ...


class ClusterMessageKeys:
    """The cluster's keys for all messages, in a fleet whose nodes have no keys of their own, as a simulated one."""

    def __init__(self, keys: ClusterKeys) -> None:
        self._keys = keys

    def to(self, receiver: NodeStatus | None) -> bytes:
        """Return the current key."""
        return self._keys.current.secret

    def of(self, sender: NodeStatus | None) -> Iterable[bytes]:
        """Return all accepted keys."""
        return (key.secret for key in self._keys.accepted)
