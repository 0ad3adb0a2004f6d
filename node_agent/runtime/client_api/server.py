"""The client API. Any node answers any request; the engine may be anywhere in the fleet.

    /v1/chat/completions, /v1/completions   streamed: a ClientStream; else a BufferedRequest
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

import contextlib
import secrets
from collections.abc import Collection, Coroutine, Iterator
from dataclasses import replace
from typing import Any

from node_agent.contract.errors import FleetFull, LimitExceeded, NoReadyPeer, RequestRejected
from node_agent.contract.names import DURABILITY_HEADER, SESSION_HEADER
from node_agent.core.access.caller import Caller
from node_agent.core.access.token_estimate import Estimate, estimate
from node_agent.core.http.cors import Origins
from node_agent.core.journal.epochs import Epoch, EpochRange, EventId, parse_event_id
from node_agent.core.journal.stream_claim import STREAM_CHARACTERS, TOKEN_BYTES, ResumeToken, make_token, parse_token
from node_agent.core.journal.stream_header import StreamHeader
from node_agent.core.openai import client_headers, routes
from node_agent.core.openai.client_headers import REQUEST_ID, stream_reader
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
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.routing.affinity import session_key
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.factory import new_stream
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.audit import Audit, RequestRecord
from node_agent.runtime.client_api.buffered_request import BufferedRequest, BufferedRequests, ClientGone
from node_agent.runtime.client_api.client_keys import ClientKeys
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.runtime.client_api.key_limits import KeyLimiter, KeyRequest
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.client_api.node_routes import NodeRoutes
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.client_api.tokenizer_requests import TokenizerRequests
from node_agent.runtime.common.responses import answer_error, answer_limited
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.takeover import JournalBehind, Takeovers

_MAX_SESSION_BYTES = 256
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
    ) -> None:
        self._node = node
        self._admission = admission
        self._limits = limits
        self._engines = engines
        self._replication = replication
        self._takeovers = takeovers
        self._streams = streams
        self._models = models
        self._origins = Origins(origins)
        self._policy = policy or RequestPolicy()
        self._tokenizing = TokenizerRequests(self._policy.settings.bounds.max_chars_per_token)
        self._own_routes = NodeRoutes(node, models, scheme, lambda: keys.state).handlers
        self._keys = keys
        self._audit = audit
        self.buffered_requests = BufferedRequests(node, engines)

    async def __call__(self, request: ServerRequest) -> None:
        """Answer a request and count it; a failure that has a status becomes an error response."""
        path, record = routes.raw_path(request.target), self._audit.begin()
        if self._origins:
            request.add_headers(self._origins.headers(request.headers))
        try:
            status = await self._answer(request, path, record)
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
        self._audit.end(record, request, path, status)

    async def _answer(self, request: ServerRequest, path: str, record: RequestRecord) -> int:
        """Answer a request; return the status that the client received. Raises what `__call__` handles."""
        request_id = secrets.token_hex(16).encode()
        request.add_headers([(REQUEST_ID, request_id)])
        if (given := client_headers.request_id(request.headers)) is not None:
            request_id = given
            request.add_headers([(REQUEST_ID, given)])
        if (status := self._reject_invalid_route(request, path)) is not None:
            return status
        if (scope := routes.required_scope(path)) is not None:
            record.caller = self._keys.identify(request.headers, request.target, scope)
        if (own := self._own_routes.get(path)) is not None:
            await own(request)
            return 200
        if path.startswith(routes.STREAMS):
            return await self._resume(request, path.removeprefix(routes.STREAMS), record)
        return await self._serve(request, path, request_id, record)

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
            return await self._stream(request, request_id, generation, record)
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
            routing = await self._routing_request(request, model, None)
            return await self._request_engine(request, request_id, body, routing, record)
        async with self._tokenizing.slot(len(request.body), self._models.own.max_model_len):
            routing = await self._routing_request(request, model, None)
            return await self._request_engine(request, request_id, body, routing, record)

    async def _buffered(
        self, request: ServerRequest, request_id: bytes, generation: GenerationRequest, record: RequestRecord
    ) -> int:
        record.model = generation.model
        routing = await self._routing_request(request, generation.model, generation.affinity_key)
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
        route, started = await self._admit(request, routing, cost, record.caller)
        buffered = BufferedRequest(
            request.method,
            routes.engine_target(request.target),
            _to_engine(request, request_id),
            body,
            routing,
            max_tokens,
            generates=generation is not None,
            on_answer=record.on_answer,
        )
        status = 500
        try:
            status = await self.buffered_requests.answer(buffered, route, request)
        except (FleetFull, NoReadyPeer):
            started.undo()
            raise
        finally:
            started.close(status, record.usage)
        return status

    async def _admit(
        self, request: ServerRequest, routing: RouteRequest, cost: Estimate, caller: Caller
    ) -> tuple[Route, KeyRequest]:
        """Admit a request by its caller's limits, then by the fleet's room.

        Raises LimitExceeded, and what `AdmissionQueue.route` raises.

        Returns:
            Its route, and its counts, to be closed.
        """
        started = await self._limits.begin(request, caller, cost)
        try:
            return await self._admission.route(routing, request, caller.key_id, cost.total), started
        except BaseException:
            started.undo()
            raise

    async def _stream(
        self, request: ServerRequest, request_id: bytes, generation: GenerationRequest, record: RequestRecord
    ) -> int:
        record.model = generation.model
        routing = await self._routing_request(request, generation.model, generation.affinity_key)
        _is_durable(request.headers.get(DURABILITY_HEADER))  # refused before anything is counted
        if self._streams.is_full:
            return self._reject_full(request)
        cost = generation.token_estimate(len(request.body))
        route, started = await self._admit(request, routing, cost, record.caller)
        try:
            stream = self._open(request, request_id, generation, routing, route, record.caller)
            return await self._run(stream, stream.run(route), started, record)
        finally:
            started.close()

    def _open(
        self,
        request: ServerRequest,
        request_id: bytes,
        generation: GenerationRequest,
        routing: RouteRequest,
        route: Route,
        caller: Caller,
    ) -> ClientStream:
        """Open a stream with its journal."""
        durable = _is_durable(request.headers.get(DURABILITY_HEADER))
        token = make_token(secrets.token_hex(STREAM_CHARACTERS // 2), secrets.token_bytes(TOKEN_BYTES))
        epoch = Epoch(1, self._node.instance_id)
        runs = (EpochRange(0, epoch),)
        claim = token.claim(caller.key_id)
        opening = StreamHeader(generation, runs, request_id.decode("latin-1"), durable, claim)
        machine = new_stream(generation, token.text, runs)
        ahead = ReplicatedLog(token.stream, epoch, opening.to_bytes(), lines=machine.journal, client=request.address)
        journal = self._replication.open_stream(ahead, route.node.pool, durable=durable)
        request.forget_body()  # the journal's opening has it
        sse_response = SseResponse(request, token.text, generation.route.value, stream_reader(request.headers))
        headers = _to_engine(request, request_id)
        return ClientStream(self._node, self._engines, machine, journal, sse_response, routing, headers=headers)

    async def _resume(self, request: ServerRequest, text: str, record: RequestRecord) -> int:
        token = parse_token(text)
        event = _last_event(token, request.headers.get(b"last-event-id"))
        if self._streams.is_full:
            return self._reject_full(request)
        with self._counted_resume():
            takeover = await self._takeovers.take_over(token, event, record.caller.key_id)
        takeover.log.client = request.address
        journal = self._replication.open_stream(takeover.log, None, durable=takeover.durable)
        if takeover.request_id and REQUEST_ID not in request.headers:
            request.add_headers([(REQUEST_ID, takeover.request_id.encode("latin-1", "replace"))])
        generation = takeover.machine.generation
        record.model = generation.model
        reader = replace(stream_reader(request.headers), wants_event_ids=True)  # or it would not be here
        sse_response = SseResponse(request, token.text, generation.route.value, reader)
        routing = await self._routing_request(request, generation.model, generation.affinity_key)
        stream = ClientStream(
            self._node, self._engines, takeover.machine, journal, sse_response, routing, takeover.replay
        )
        return await self._run(stream, stream.resume(), self._limits.resume(record.caller), record)

    @contextlib.contextmanager
    def _counted_resume(self) -> Iterator[None]:
        outcome = "lost"
        try:
            yield
            outcome = "taken"
        except RequestRejected as rejected:
            outcome = rejected.code
            raise
        except JournalBehind:
            outcome = "journal_behind"
            raise
        finally:
            self._node.metrics.resumes.labels(outcome).inc()

    async def _run(
        self, stream: ClientStream, running: Coroutine[Any, Any, int], started: KeyRequest, record: RequestRecord
    ) -> int:
        self._streams.add(stream)
        started.watch(stream.machine)
        record.stream = stream.stream_id
        before = stream.machine.tokens
        try:
            return await running
        finally:
            started.close()
            self._streams.remove(stream)
            record.tokens_in = stream.machine.prompt_tokens or None
            record.tokens_out = max(0, stream.machine.tokens - before)
            self._node.metrics.tokens.inc(record.tokens_out)

    def _reject_full(self, request: ServerRequest) -> int:
        message = f"This node holds {self._streams.max_streams} streams, its bound; try another node, or again shortly."
        answer_error(request, 429, "too_many_streams", message, retry_after_s=1.0)
        return 429

    async def _routing_request(self, request: ServerRequest, model: str | None, key: int | None) -> RouteRequest:
        """Return what the router has to know. Raises RequestRejected."""
        model = await self._models.base_model(model)
        session = request.headers.get(SESSION_HEADER)
        if not session:
            return RouteRequest(model, key)
        if len(session) > _MAX_SESSION_BYTES:
            name = SESSION_HEADER.decode()
            raise RequestRejected(400, "invalid_request", f"{name} has {_MAX_SESSION_BYTES} characters at most.")
        return RouteRequest(model, session_key(session.decode("latin-1")), by_session=True)


def _to_engine(request: ServerRequest, request_id: bytes) -> dict[str, str]:
    return {**client_headers.engine_headers(request.headers), "x-request-id": request_id.decode("latin-1")}


def _is_durable(value: bytes | None) -> bool:
    """Return whether the client wants its stream replicated. Raises RequestRejected."""
    if value not in (None, b"peer", b"none"):
        raise RequestRejected(400, "invalid_request", f"{DURABILITY_HEADER.decode()} is peer or none.")
    return value != b"none"


def _last_event(token: ResumeToken, last: bytes | None) -> EventId:
    """Parse the Last-Event-ID of a resumed stream. Raises RequestRejected."""
    if not last:
        return EventId(token.text, 0)
    try:
        event = parse_event_id(last.decode("latin-1"))
    except ValueError as error:
        raise RequestRejected(400, "invalid_event_id", f"Last-Event-ID: {error}.") from error
    if event.stream != token.text:
        message = f"Last-Event-ID is of another stream than {token.stream[:100]}."
        raise RequestRejected(400, "invalid_event_id", message)
    return event
