"""Decide which engines may continue a stream, in order of preference, and how long to wait before one is tried again.

1. an engine that was not tried and can continue the answer;
2. any but the last that can: the others had time to recover;
3. any but the last, also one that cannot: it gives the reason for which the stream ends.

Each of them outside the pool of the last loss if possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from node_agent.core.node.status import NodeStatus
from node_agent.core.routing.router import RouteRequest

_RETRY_SAME_NODE_S = 0.5
"""Wait before a node that lost this stream is tried again: without another node, it needs time to recover."""


def continuation_requests(
    routing: RouteRequest,
    tried: Sequence[NodeStatus],
    can_continue: Callable[[NodeStatus], bool],
    handoff_target: str | None,
) -> Iterator[RouteRequest]:
    """Yield what to request of the router, the best first.

    Args:
        routing: the stream's properties.
        tried: the nodes whose engines lost the stream, in their order.
        can_continue: whether a node's engine can continue the answer.
        handoff_target: the instance id of the node that has room, as the last node reported it; None for none.
    """
    names = [node.instance_id for node in tried]
    avoid = tried[-1].pool if tried else None
    for excluded, can_serve in ((names, can_continue), (names[-1:], can_continue), (names[-1:], None)):
        yield replace(routing, tried=excluded, can_serve=can_serve, avoid=avoid, handoff_target=handoff_target)


def retry_delay_s(instance_id: str, tried: Sequence[NodeStatus]) -> float:
    """Return how long to wait before a node gets the stream, in seconds: 0.0 for one that was not tried."""
    was_tried = any(node.instance_id == instance_id for node in tried)
    return _RETRY_SAME_NODE_S * len(tried) if was_tried else 0.0
