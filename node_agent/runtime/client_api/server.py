"""The client API. Any node answers any request; the engine may be anywhere in the fleet.

    /v1/chat/completions, /v1/completions   streamed: `ClientStreams`; else a BufferedRequest
    /v1/responses, /v1/messages             the same
    /v1/messages/count_tokens, /version     relayed, retried before the first byte
    /tokenize, /v1/embeddings, ...          the same, where the operator allows them
    /v1/streams/<id>                        a stream that began anywhere, from Last-Event-ID on
    /v1/models, /health, ...                this node's own (`runtime/client_api/node_routes`)

A request that is not for a node's health needs a client's key (`runtime/client_api/client_keys`).

`core/openai/routes` has them all; `core/policy` decides what of a request reaches an engine. This API reads and answers
as vLLM does; docs/compatibility.md lists the exceptions with their reasons. Every response carries X-Request-Id; every
error says what to do, in the form of its route.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace

from node_agent.contract.errors import FleetFull, LimitExceeded, NoReadyPeer, RequestRejected
from node_agent.core.access.token_estimate import estimate, estimate_left
from node_agent.core.http.cors import Origins
from node_agent.core.openai import client_headers, routes
from node_agent.core.openai.client_headers import REQUEST_ID
from node_agent.core.openai.generation_request import (
    ApiRoute,
    GenerationRequest,
    PassThroughRequest,
    is_engine_bound,
    parse_generation,
)
from node_agent.core.openai.request_body import Body, read_body
from node_agent.core.policy.fields import PASSED
from node_agent.core.policy.request_policy import TOKENIZER_ROUTES, RequestPolicy
from node_agent.core.routing.router import RouteRequest
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.audit import Audit, RequestRecord
from node_agent.runtime.client_api.buffered_request import BufferedRequest, BufferedRequests, ClientGone
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.client_streams import ClientStreams
from node_agent.runtime.client_api.key_limits import KeyLimiter
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.client_api.node_routes import NodeRoutes
from node_agent.runtime.client_api.request_admission import RequestAdmission, engine_headers
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.client_api.tokenizer_requests import TokenizerRequests
from node_agent.runtime.common.responses import answer_error, answer_limited
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.takeover import JournalBehind, Takeovers

_KINDS = {kind.value: kind for kind in ApiRoute}
_NAME_MODEL = (ApiRoute.CHAT, ApiRoute.COMPLETION, ApiRoute.RESPONSES)
"""Routes where a request may omit the model; it then means the served one. Anthropic's route requires it."""

_AUTHENTICATE = ((b"www-authenticate", b'Bearer realm="synkti"'),)


class ClientApi:
    """Answers clients' requests.

    origins: whose pages may call from a browser.
    scheme: http, or https with TLS.
    policy: what engines may receive of a request.
    keys, audit: recognize callers by their keys, and log what these did.
    page: handlers of the node's page, by path.
    """

    def __init__(
        self,
        node: NodeContext,
        admission: AdmissionQueue,
        limits: KeyLimiter,
        engines: EngineClient,
        replication: ReplicationManager,
        takeovers: Takeovers,
        streams: StreamRegistry,
        models: ModelList,
        keys: ClientKeys,
        audit: Audit,
        origins: Collection[str] = (),
        scheme: str = "http",
        policy: RequestPolicy | None = None,
        page: Mapping[str, Callable[[ServerRequest], Awaitable[None]]] | None = None,
    ) -> None:
        self._node = node
        self._admission = RequestAdmission(admission, limits, models)
        self._streams = ClientStreams(node, self._admission, limits, engines, replication, takeovers, streams)
        self._models = models
        self._origins = Origins(origins)
        self._policy = policy or RequestPolicy()
        self._tokenizing = TokenizerRequests(self._policy.settings.bounds.max_chars_per_token)
        own = NodeRoutes(node, models, scheme, lambda: keys.state, self._policy.settings.allowed_routes)
        self._own_routes = {**own.handlers, **(page or {})}
        self._keys = keys
        self._audit = audit
        self.buffered_requests = BufferedRequests(node, engines)

    async def __call__(self, request: ServerRequest) -> None:
        """Answer a request and count it; a failure that has a status becomes an error response."""
        await self._respond(request, self._answer)

    def is_refused(self, method: str, target: str, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request is refused by its head alone: its caller has no key that opens its route."""
        scope = routes.required_scope(routes.raw_path(target))
        return method != "OPTIONS" and scope is not None and not self._keys.accepts(headers, target, scope)

    async def refuse(self, request: ServerRequest) -> None:
        """Answer a request whose head was refused; its body was not read."""
        await self._respond(request, self._refuse)

    async def _respond(
        self, request: ServerRequest, answer: Callable[[ServerRequest, str, RequestRecord], Awaitable[int]]
    ) -> None:
        path, record = routes.raw_path(request.target), self._audit.begin()
        if self._origins:
            request.add_headers(self._origins.headers(request.headers))
        try:
            status = await answer(request, path, record)
        except ClientGone:
            status = 499
        except RequestRejected as rejected:
            status = rejected.status
            more = _AUTHENTICATE if status == 401 else ()
            answer_error(request, status, rejected.code, str(rejected), param=rejected.param, headers=more)
        except NoReadyPeer as none:
            status = 503
            answer_error(request, status, "no_ready_node", str(none), retry_after_s=none.retry_after_s)
        except LimitExceeded as exceeded:
            status = 429
            answer_limited(request, exceeded)
        except FleetFull as full:
            status = 429
            answer_error(request, status, "fleet_full", str(full), retry_after_s=full.retry_after_s)
        except JournalBehind as behind:
            status = 503
            answer_error(request, status, "journal_behind", str(behind), retry_after_s=behind.retry_after_s)
        if path not in routes.NODE_ROUTES:
            self._node.metrics.count_request(routes.metric_label(path), status)
        if path in _KINDS:
            now = self._node.gossip.monotonic()
            observe = self._node.metrics.generations.observe
            observe(path, now, record.began_at, record.first_output_at, record.tokens_out)
        self._audit.end(record, request, path, status)

    async def _answer(self, request: ServerRequest, path: str, record: RequestRecord) -> int:
        """Answer a request; return the status that the client received. Raises what `_respond` handles."""
        request_id = _name_request(request)
        if (status := self._reject_invalid_route(request, path)) is not None:
            return status
        self._identify(request, path, record)
        if (own := self._own_routes.get(path)) is not None:
            await own(request)
            return 200
        if path.startswith(routes.STREAMS):
            return await self._streams.resume(request, path.removeprefix(routes.STREAMS), record)
        return await self._serve(request, path, request_id, record)

    async def _refuse(self, request: ServerRequest, path: str, record: RequestRecord) -> int:
        """Answer a request whose head was refused, as `_answer` would."""
        _name_request(request)
        if (status := self._reject_invalid_route(request, path)) is not None:
            return status
        self._identify(request, path, record)
        raise NoReadyPeer("The clients' keys have changed while this request arrived; try again.", 1.0)

    def _identify(self, request: ServerRequest, path: str, record: RequestRecord) -> None:
        """Record the caller. Raises RequestRejected, NoReadyPeer."""
        if (scope := routes.required_scope(path)) is not None:
            record.caller = self._keys.identify(request.headers, request.target, scope)

    def _reject_invalid_route(self, request: ServerRequest, path: str) -> int | None:
        """Answer a request for an unknown route, or with a wrong method; return None for all others."""
        if request.method == "OPTIONS" and (allowed := self._origins.preflight(request.headers)) is not None:
            request.respond(200, b"OK", b"text/plain; charset=utf-8", allowed)
            return 200
        optional = self._policy.settings.allowed_routes
        if (shorter := routes.without_trailing_slash(request.target, optional)) is not None:
            request.respond(307, b"", b"", [(b"location", shorter.encode("latin-1", "replace"))])
            return 307
        methods = routes.allowed_methods(path, optional)
        if not methods:
            raise RequestRejected(404, "unknown_route", routes.not_found_message(path))
        if request.method not in methods:
            allow = ", ".join(methods)
            message = f"{path[:200]} takes {allow}, not {request.method}."
            answer_error(request, 405, "method_not_allowed", message, headers=[(b"allow", allow.encode())])
            return 405
        return None

    async def _serve(self, request: ServerRequest, path: str, request_id: bytes, record: RequestRecord) -> int:
        kind, content_type = _KINDS.get(path), request.headers.get(b"content-type", b"")
        if path in routes.AUDIO_ROUTES:
            form = self._policy.apply_form(path, request.body, content_type)
            return await self._relay(request, request_id, form, None, record)
        if request.method != "POST" or not request.body or not routes.may_be_json(content_type):
            # An engine refuses another type by its header; what it does not read it does not receive.
            return await self._relay(request, request_id, b"", None, record)
        body = self._screened(request, path, read_body(request.body), record.caller.key_id)
        if kind is None or not routes.is_json(content_type):
            return await self._relay(request, request_id, body.to_bytes(), body.model, record)
        try:
            generation = parse_generation(kind, self._with_model(kind, body))
        except PassThroughRequest:
            return await self._relay(request, request_id, body.to_bytes(), body.model, record)
        if kind.uses_named_events and (not generation.streaming or is_engine_bound(generation)):
            return await self._relay(request, request_id, body.to_bytes(), generation.model, record)
        del body  # its objects take many times its bytes, for as long as this waits
        if generation.streaming:
            return await self._streams.begin(request, request_id, generation, record)
        return await self._buffered(request, request_id, generation, record)

    def _screened(self, request: ServerRequest, path: str, body: Body, key_id: str) -> Body:
        """Return the body that an engine may receive. Raises RequestRejected where the policy refuses it."""
        if path not in PASSED:  # a route without fields, such as the cancellation of a response
            return replace(body, value={})
        context = self._models.own.max_model_len
        return replace(body, value=self._policy.apply(path, body.value, len(request.body), context, key_id))

    def _with_model(self, kind: ApiRoute, body: Body) -> Body:
        """Fill in the model that a request omits: a continuation may run at any node."""
        if kind in _NAME_MODEL and isinstance(body.value, dict) and body.value.get("model") in (None, ""):
            return replace(body, value={**body.value, "model": self._node.base_model(None)})
        return body

    async def _relay(
        self, request: ServerRequest, request_id: bytes, body: bytes, model: str | None, record: RequestRecord
    ) -> int:
        """Relay a request that only an engine can answer, if only with an error."""
        record.model = model
        if request.path not in TOKENIZER_ROUTES:
            routing = await self._admission.routing_request(request, model, None)
            return await self._request_engine(request, request_id, body, routing, record)
        async with self._tokenizing.slot(len(request.body), self._models.own.max_model_len):
            routing = await self._admission.routing_request(request, model, None)
            return await self._request_engine(request, request_id, body, routing, record)

    async def _buffered(
        self, request: ServerRequest, request_id: bytes, generation: GenerationRequest, record: RequestRecord
    ) -> int:
        record.model = generation.model
        routing = await self._admission.routing_request(request, generation.model, generation.affinity_key)
        return await self._request_engine(request, request_id, generation.engine_body(), routing, record, generation)

    async def _request_engine(
        self,
        request: ServerRequest,
        request_id: bytes,
        body: bytes,
        routing: RouteRequest,
        record: RequestRecord,
        generation: GenerationRequest | None = None,
    ) -> int:
        size, max_tokens = len(request.body), generation.max_tokens if generation is not None else None
        if generation is not None:
            cost = generation.token_estimate(size)
        else:
            cost = estimate(size, None if request.path in _KINDS else 0)
        route, started = await self._admission.admit(request, routing, cost, record.caller)
        buffered = BufferedRequest(
            request.method,
            routes.engine_target(request.target),
            engine_headers(request, request_id),
            body,
            routing,
            max_tokens,
            generates=generation is not None,
            on_answer=record.on_answer,
        )
        status, counted, begun_at = 500, None, self._node.gossip.monotonic()
        try:
            status = await self.buffered_requests.answer(buffered, route, request)
            counted = record.usage
        except (FleetFull, NoReadyPeer):
            started.undo()
            raise
        except ClientGone:
            elapsed_s = self._node.gossip.monotonic() - begun_at
            time_per_token_s = self._node.load_of(route.node.instance_id).time_per_token_s
            counted = estimate_left(cost, elapsed_s, time_per_token_s, generation.choices if generation else 1)
            raise
        finally:
            started.close(status, counted)
        return status


def _name_request(request: ServerRequest) -> bytes:
    """Return the request's id, its client's or a new one, and add it to the response."""
    request_id = secrets.token_hex(16).encode()
    request.add_headers([(REQUEST_ID, request_id)])  # also where the client's own is refused
    if (given := client_headers.request_id(request.headers)) is not None:
        request_id = given
        request.add_headers([(REQUEST_ID, given)])
    return request_id
