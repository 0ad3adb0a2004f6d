"""Answer the routes that a node serves by itself: liveness, readiness, metrics, models, and its view of the fleet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from node_agent.core.node.status import load_to_json
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.common.metrics import CONTENT_TYPE
from node_agent.runtime.common.responses import answer_json
from node_agent.runtime.drain.controller import DrainController
from node_agent.runtime.node.context import NodeContext


class NodeRoutes:
    """Handles the node's own routes. handlers: by path; each answers one request."""

    def __init__(self, node: NodeContext, models: ModelList, draining: DrainController, keys: ClientKeys) -> None:
        self._node = node
        self._models = models
        self._draining = draining
        self._keys = keys
        self.handlers: Mapping[str, Callable[[ServerRequest], Awaitable[None]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/health": self._health,
            "/ping": self._health,
            "/load": self._load,
            "/v1/models": self._list_models,
            "/v1/synkti/nodes": self._nodes,
            "/v1/synkti/drains": self._drains,
        }

    async def _healthz(self, request: ServerRequest) -> None:
        answer_json(request, {"status": "alive"})

    async def _readyz(self, request: ServerRequest) -> None:
        ready = self._node.state.takes_requests and self._keys.state != "unavailable"
        body = {
            "status": self._node.state.value,
            "instance_id": self._node.instance_id,
            "client_keys": self._keys.state,
        }
        answer_json(request, body, 200 if ready else 503)

    async def _health(self, request: ServerRequest) -> None:
        """Answer as vLLM does: no body, 200 or 503."""
        request.respond(200 if self._node.state.takes_requests else 503, b"", b"")

    async def _load(self, request: ServerRequest) -> None:
        """Answer as vLLM does, with the requests at this node's engine."""
        answer_json(request, {"server_load": self._node.router.own_load.load.in_flight})

    async def _metrics(self, request: ServerRequest) -> None:
        request.respond(200, self._node.metrics.exposition(), CONTENT_TYPE.encode())

    async def _list_models(self, request: ServerRequest) -> None:
        answer_json(request, {"object": "list", "data": await self._models.list_all()})

    async def _nodes(self, request: ServerRequest) -> None:
        node = self._node
        suspects = node.suspects
        nodes = [
            {
                **status.to_json(),
                **load_to_json(node.load_of(status.instance_id)),
                "suspect": status.instance_id in suspects,
                "clock_ahead_s": node.clock_ahead_s(status),
            }
            for status in (node.status(), *node.present)
        ]
        own = node.own_clock
        clock = {"off_s": round(own.off_s, 3), "is_off": own.is_off, "measured": own.measured, "agreeing": own.agreeing}
        answer_json(request, {"self": node.instance_id, "clock": clock, "nodes": nodes})

    async def _drains(self, request: ServerRequest) -> None:
        record = self._draining.record
        answer_json(request, {"drains": [] if record is None else [record.to_json()]})
