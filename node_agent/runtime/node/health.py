"""Answer the node's liveness and readiness, at the client API and at the admin listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from node_agent.ports import ServerRequest
from node_agent.runtime.common.responses import answer_json
from node_agent.runtime.node.context import NodeContext


class HealthRoutes:
    """Handles the routes of liveness and readiness.

    handlers: by path; each answers one request. keys_state: of clients' keys: off, on, or unavailable, and then no
    request of a client can be answered.
    """

    def __init__(self, node: NodeContext, keys_state: Callable[[], str]) -> None:
        self._node = node
        self._keys_state = keys_state
        self.handlers: Mapping[str, Callable[[ServerRequest], Awaitable[None]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }

    async def _healthz(self, request: ServerRequest) -> None:
        answer_json(request, {"status": "alive"})

    async def _readyz(self, request: ServerRequest) -> None:
        keys = self._keys_state()
        ready = self._node.state.takes_requests and keys != "unavailable"
        body = {"status": self._node.state.value, "instance_id": self._node.instance_id, "client_keys": keys}
        answer_json(request, body, 200 if ready else 503)
