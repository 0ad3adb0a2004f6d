"""The rotation of a cluster's key: which step is next, and which nodes have to read the last one before it.

The steps are those of `node_agent/core/common/cluster_keys`. Nodes publish in their tags which keys they accept.
"""

from __future__ import annotations

from collections.abc import Sequence

from cli.core.nodes import Node
from node_agent.core.common.cluster_keys import ClusterKeySet


def needs_key(node: Node) -> bool:
    """Return whether a node takes part: one without a state reads the key when it starts; one shut out never counts."""
    return node.state is not None and not node.is_shut_out


def not_accepting(nodes: Sequence[Node], key_id: str) -> list[str]:
    """Return the nodes that do not accept messages with this key."""
    return [node.instance_id for node in nodes if needs_key(node) and key_id not in node.cluster_keys]


def not_signing(nodes: Sequence[Node], key_id: str) -> list[str]:
    """Return the nodes that do not sign with this key."""
    return [node.instance_id for node in nodes if needs_key(node) and node.cluster_keys[:1] != (key_id,)]


def describe(keys: ClusterKeySet) -> str:
    """Return the state of a rotation in words."""
    if keys.next is not None:
        return f"a rotation has begun: nodes sign with {keys.current.key_id}, and are to accept {keys.next.key_id}"
    if keys.previous is not None:
        return f"a rotation is not finished: nodes sign with {keys.current.key_id}, and accept {keys.previous.key_id}"
    return f"nodes sign with {keys.current.key_id}, the only valid key"


def foreign(nodes: Sequence[Node], key_ids: Sequence[str]) -> list[str]:
    """Return the nodes that accept none of these keys: they are a fleet of their own."""
    return [
        node.instance_id
        for node in nodes
        if needs_key(node) and node.cluster_keys and not set(node.cluster_keys).intersection(key_ids)
    ]


def split_fleets(nodes: Sequence[Node]) -> list[list[str]]:
    """Return the nodes in groups that share a key, the largest group first: more than one is more than one fleet."""
    groups: list[tuple[set[str], list[str]]] = []
    for node in (each for each in nodes if needs_key(each) and each.cluster_keys):
        keys, names = set(node.cluster_keys), [node.instance_id]
        joined = [group for group in groups if group[0] & keys]
        for group in joined:
            keys |= group[0]
            names = [*group[1], *names]
            groups.remove(group)
        groups.append((keys, names))
    return sorted((names for _, names in groups), key=len, reverse=True)
