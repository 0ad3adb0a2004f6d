"""The admin API: what operators and their tools read of a node, at a listener of its own.

It is not where clients are: on loopback by default, or in the VPC where the security group admits whoever collects
metrics. It is in plain HTTP and serves no prompt and no answer. No web page can use it (`core/http/callers`). A caller
from another machine needs a client's key with the route's scope, where keys are on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from node_agent.contract.errors import NoReadyPeer, RequestRejected
from node_agent.core.access.caller import Caller, Scope
from node_agent.core.common.address import is_loopback
from node_agent.core.engine.exposition import with_node_label
from node_agent.core.http.callers import CallerPolicy
from node_agent.core.openai import routes
from node_agent.ports import ServerRequest
from node_agent.runtime.common.metrics import CONTENT_TYPE
from node_agent.runtime.common.responses import answer_error, answer_json
from node_agent.runtime.drain.controller import DrainController
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.health import HealthRoutes

Identify = Callable[[Mapping[bytes, bytes], str, Scope], Caller]

_MAX_SHOWN_CHARS = 200
_POLICY = CallerPolicy(server="admin listener", has_options=False)


class AdminApi:
    """Answers the requests of the admin listener.

    handlers: by path; each answers one request. identify: checks a key for a scope, as `ClientKeys.identify`.
    keys_state: as HealthRoutes'. engine_metrics: returns vLLM's own, b"" where there are none.
    """

    def __init__(
        self,
        node: NodeContext,
        draining: DrainController,
        identify: Identify,
        keys_state: Callable[[], str],
        engine_metrics: Callable[[], bytes],
    ) -> None:
        self._node = node
        self._engine_metrics = engine_metrics
        self._identify = identify
        self._draining = draining
        self.handlers: Mapping[str, Callable[[ServerRequest], Awaitable[None]]] = {
            **HealthRoutes(node, keys_state).handlers,
            "/metrics": self._metrics,
            "/v1/synkti/drains": self._drains,
        }

    async def __call__(self, request: ServerRequest) -> None:
        """Answer one request: 403 for a web page, 404 and 405 for what there is not."""
        path = request.path
        if (reason := _POLICY.rejection_reason(request.headers)) is not None:
            answer_error(request, 403, "caller_not_allowed", reason)
        elif (handler := self.handlers.get(path)) is None:
            shown = routes.ADMIN_NOT_FOUND_MESSAGE.format(path=path[:_MAX_SHOWN_CHARS])
            answer_error(request, 404, "unknown_route", shown)
        elif request.method not in (allowed := routes.ADMIN_ROUTES[path]):
            allow = ", ".join(allowed)
            message = f"{path} takes {allow}, not {request.method}."
            answer_error(request, 405, "method_not_allowed", message, headers=[(b"allow", allow.encode())])
        elif self._is_permitted(request, path):
            await handler(request)

    def _is_permitted(self, request: ServerRequest, path: str) -> bool:
        """Return whether a caller may have a route; answer the request where it may not."""
        scope = routes.required_scope(path)
        if scope is None or is_loopback(request.address):  # the node's own scripts, and `synkti connect`, have no key
            return True
        try:
            self._identify(request.headers, request.target, scope)
        except RequestRejected as rejected:
            answer_error(request, rejected.status, rejected.code, str(rejected))
        except NoReadyPeer as none:
            answer_error(request, 503, "no_ready_node", str(none), retry_after_s=none.retry_after_s)
        else:
            return True
        return False

    async def _metrics(self, request: ServerRequest) -> None:
        """Answer with this node's metrics, and vLLM's with the node as a label."""
        engine = with_node_label(self._engine_metrics(), self._node.instance_id)
        request.respond(200, self._node.metrics.exposition() + engine, CONTENT_TYPE.encode())

    async def _drains(self, request: ServerRequest) -> None:
        record = self._draining.record
        answer_json(request, {"drains": [] if record is None else [record.to_json()]})
