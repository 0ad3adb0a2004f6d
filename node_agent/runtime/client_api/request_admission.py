"""Admit a client's request: to which model it goes, whether its key's limits have room, and which engine serves it."""

from __future__ import annotations

from node_agent.contract.errors import RequestRejected
from node_agent.contract.names import SESSION_HEADER
from node_agent.core.access.caller import Caller
from node_agent.core.access.token_estimate import Estimate
from node_agent.core.openai import client_headers
from node_agent.core.routing.affinity import session_key
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.key_limits import KeyLimiter, KeyRequest
from node_agent.runtime.client_api.model_list import ModelList

_MAX_SESSION_BYTES = 256


class RequestAdmission:
    """Admits requests.

    queue: holds what no node has room for; limits: of keys; models: the names that the fleet serves.
    """

    def __init__(self, queue: AdmissionQueue, limits: KeyLimiter, models: ModelList) -> None:
        self._queue = queue
        self._limits = limits
        self._models = models

    async def admit(
        self, request: ServerRequest, routing: RouteRequest, cost: Estimate, caller: Caller
    ) -> tuple[Route, KeyRequest]:
        """Admit a request by its caller's limits, then by the fleet's room.

        Raises LimitExceeded, and what `AdmissionQueue.route` raises.

        Returns:
            Its route, and its counts, to be closed.
        """
        started = await self._limits.begin(request, caller, cost)
        try:
            route, started.paid = await self._queue.route(routing, request, caller.key_id, cost.total)
        except BaseException:
            started.undo()
            raise
        return route, started

    async def routing_request(self, request: ServerRequest, model: str | None, key: int | None) -> RouteRequest:
        """Return what the router has to know. Raises RequestRejected."""
        model = await self._models.base_model(model)
        session = request.headers.get(SESSION_HEADER)
        if not session:
            return RouteRequest(model, key)
        if len(session) > _MAX_SESSION_BYTES:
            name = SESSION_HEADER.decode()
            raise RequestRejected(400, "invalid_request", f"{name} has {_MAX_SESSION_BYTES} characters at most.")
        return RouteRequest(model, session_key(session.decode("latin-1")), by_session=True)


def engine_headers(request: ServerRequest, request_id: bytes) -> dict[str, str]:
    """Return the headers that an engine receives of a request."""
    return {**client_headers.engine_headers(request.headers), "x-request-id": request_id.decode("latin-1")}
