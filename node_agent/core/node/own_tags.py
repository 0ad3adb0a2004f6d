"""Decide whether a node writes its EC2 tags again, because EC2 lists others than it wrote."""

from __future__ import annotations

from node_agent.contract.states import NodeState
from node_agent.core.node.status import NodeStatus, TaggedNode

STATE_SETTLES_S = 10.0
"""How long a tag may have another state than the node. EventBridge's notice may come before that of IMDS, which is read
every second, and a write of the node's own may be under way."""


class OwnTagCheck:
    """Compares what EC2 lists of a node with its status, at each read of the tags."""

    def __init__(self) -> None:
        self._seen: tuple[NodeState | None, NodeState] | None = None
        self._seen_at = 0.0

    def difference(self, listed: TaggedNode, status: NodeStatus, now: float) -> str | None:
        """Return what differs; None where nothing does, or not long enough. now: monotonic seconds.

        A Lambda tags a node by an event that the node did not receive: a drill's, or one that EC2 took back.
        """
        if (listed.public_key or "", listed.peer_address) != (status.public_key, status.peer_address):
            return "another key or address"
        pair = (listed.state, status.state)
        if listed.state is status.state or status.state in (NodeState.DRAINING, NodeState.GONE):
            self._seen = None
            return None
        if pair != self._seen:
            self._seen, self._seen_at = pair, now
            return None
        if now - self._seen_at < STATE_SETTLES_S:
            return None
        self._seen = None
        return f"the state {listed.state.value if listed.state else '(none)'} instead of {status.state.value}"
