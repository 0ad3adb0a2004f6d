"""Answer the node's liveness and readiness, at the client API and at the admin listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from node_agent.ports import ServerRequest
from node_agent.runtime.common.responses import answer_json
from node_agent.runtime.node.context import NodeContext


class HealthRoutes:
    """Handles the routes of liveness and readiness. handlers: by path; each answers one request."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self.handlers: Mapping[str, Callable[[ServerRequest], Awaitable[None]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    async def _healthz(self, request: ServerRequest) -> None:
        answer_json(request, {"status": "alive"})

    async def _readyz(self, request: ServerRequest) -> None:
        ready = self._node.state.takes_requests
        body = {"status": self._node.state.value, "instance_id": self._node.instance_id}
        answer_json(request, body, 200 if ready else 503)
