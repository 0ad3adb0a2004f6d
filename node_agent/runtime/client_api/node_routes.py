"""Answer the routes that a node serves by itself: liveness, readiness, models, and its view of the fleet.

Metrics and drains are at a listener of their own (`runtime/admin_api`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

import orjson

from node_agent.core.node.status import load_to_json
from node_agent.core.openai.openapi import document
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.common.responses import answer_json
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.health import HealthRoutes


class NodeRoutes:
    """Handles the node's own routes.

    handlers: by path; each answers one request. scheme: of the fleet's client APIs, http or https. keys_state: as
    HealthRoutes'. allowed_routes: the optional ones that the operator allows.
    """

    def __init__(
        self,
        node: NodeContext,
        models: ModelList,
        scheme: str,
        keys_state: Callable[[], str],
        allowed_routes: Collection[str],
    ) -> None:
        self._node = node
        self._models = models
        self._scheme = scheme
        # Encoded once: the route is open to all, and a document takes longer than other answers.
        self._description = orjson.dumps(document(allowed_routes, keys_required=keys_state() != "off"))
        self.handlers: Mapping[str, Callable[[ServerRequest], Awaitable[None]]] = {
            **HealthRoutes(node, keys_state).handlers,
            "/health": self._health,
            "/ping": self._health,
            "/load": self._load,
            "/openapi.json": self._describe,
            "/v1/models": self._list_models,
            "/v1/synkti/nodes": self._nodes,
        }

    async def _health(self, request: ServerRequest) -> None:
        """Answer as vLLM does: no body, 200 or 503."""
        request.respond(200 if self._node.state.takes_requests else 503, b"", b"")

    async def _load(self, request: ServerRequest) -> None:
        """Answer as vLLM does, with the requests at this node's engine."""
        answer_json(request, {"server_load": self._node.router.own_load.load.in_flight})

    async def _describe(self, request: ServerRequest) -> None:
        request.respond(200, self._description)

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
        answer = {"self": node.instance_id, "scheme": self._scheme, "clock": clock, "nodes": nodes}
        answer_json(request, answer)
