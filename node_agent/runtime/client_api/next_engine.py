"""Choose the engine that continues a stream, and wait where none is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from node_agent.core.node.status import NodeStatus
from node_agent.core.routing.continuation_order import continuation_requests, retry_delay_s
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.runtime.node.context import NodeContext

_POLL_INTERVAL_S = 0.1


class NextEngine:
    """The choice of one stream's engines after the first.

    routing: what the router has to know.
    can_continue: whether a node's engine can continue the answer.
    """

    def __init__(self, node: NodeContext, routing: RouteRequest, can_continue: Callable[[NodeStatus], bool]) -> None:
        self.handoff_target: str | None = None
        """The instance id of the node that has room, by the word of the node that gave the stream back."""

        self._node = node
        self._routing = replace(routing, is_continuation=True)
        self._can_continue = can_continue
        self._tried: list[NodeStatus] = []
        self._clock = asyncio.get_running_loop().time

    def add_tried(self, node: NodeStatus) -> None:
        """Record that a node's engine gets the stream."""
        self._tried.append(node)

    async def wait(self, timeout_s: float, is_cancelled: Callable[[], bool]) -> Route | None:
        """Return a route to another engine, None where there is none in time.

        Args:
            timeout_s: how long to wait for one, in seconds.
            is_cancelled: whether none is needed any more.
        """
        give_up_at = self._clock() + timeout_s
        while not is_cancelled():
            if (route := self._route()) is not None:
                if delay_s := retry_delay_s(route.node.instance_id, self._tried):
                    await asyncio.sleep(delay_s)
                return route
            if self._clock() >= give_up_at:
                break
            await asyncio.sleep(_POLL_INTERVAL_S)
        return None

    def _route(self) -> Route | None:
        for request in continuation_requests(self._routing, self._tried, self._can_continue, self.handoff_target):
            route = self._node.route(request)
            if isinstance(route, Route):
                return route
        return None
