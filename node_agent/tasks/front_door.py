"""The front door: what clients call. Any node answers any request; the engine may be anywhere in the fleet.

    /v1/chat/completions, /v1/completions   streamed: a ClientStream; else retried whole
    other /v1 routes, /tokenize, ...        passed on, retried before the first byte
    /v1/streams/<id>                        a stream that began anywhere, from Last-Event-ID on
    /v1/models                              what the fleet serves
    /v1/synkti/nodes                        the fleet as this node sees it
    /healthz /readyz /metrics               liveness, readiness, Prometheus

Every error is in OpenAI's form and says what to do.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from node_agent.contract.errors import NoReadyPeer, RequestRejected
from node_agent.contract.names import DURABILITY_HEADER
from node_agent.core.completions import Generation, Kind, read_generation, read_model
from node_agent.core.epochs import Epoch, EventId, Run, parse_event_id
from node_agent.core.opening import Opening
from node_agent.core.routing import Route
from node_agent.core.stream import StreamMachine
from node_agent.core.write_ahead import WriteAhead
from node_agent.tasks.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    header,
    on_disconnect,
    read_body,
    respond,
    respond_error,
    respond_json,
)
from node_agent.tasks.client_stream import ClientStream
from node_agent.tasks.engines import Engines
from node_agent.tasks.keepers import Keepers
from node_agent.tasks.metrics import CONTENT_TYPE
from node_agent.tasks.node import Node
from node_agent.tasks.open_streams import OpenStreams
from node_agent.tasks.reply import REQUEST_ID, Reply
from node_agent.tasks.takeover import JournalBehind, Takeovers
from node_agent.tasks.whole_request import WholeRequest, WholeRequests

_PASSED_ON = frozenset({"/tokenize", "/detokenize", "/version"})
_HEADERS = {"content-type": "application/json"}
_STREAMS = "/v1/streams/"
_RETRY_AFTER_S = 2.0

_KINDS = {kind.value: kind for kind in Kind}


class FrontDoor:
    """An ASGI application. max_body_bytes: of a request."""

    def __init__(
        self,
        node: Node,
        engines: Engines,
        keepers: Keepers,
        takeovers: Takeovers,
        streams: OpenStreams,
        max_body_bytes: int,
    ) -> None:
        self._node = node
        self._engines = engines
        self._keepers = keepers
        self._takeovers = takeovers
        self._streams = streams
        self._max_body_bytes = max_body_bytes
        self._whole_requests = WholeRequests(node, engines)
        self._own_routes: dict[str, Callable[[Send], Awaitable[None]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/v1/models": self._models,
            "/v1/synkti/nodes": self._nodes,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        own = self._own_routes.get(path)
        if own is not None and scope["method"] == "GET":
            await own(send)
            return
        status = 0
        try:
            status = await self._serve(scope, path, receive, send)
        except ClientGone:
            status = 499
        except RequestRejected as rejected:
            status = rejected.status
            await respond_error(send, status, rejected.code, str(rejected), param=rejected.param)
        except NoReadyPeer as none:
            status = 503
            await respond_error(send, status, "no_ready_node", str(none), retry_after_s=none.retry_after_s)
        except JournalBehind as behind:
            status = 503
            await respond_error(send, status, "journal_behind", str(behind), retry_after_s=behind.retry_after_s)
        finally:
            label = path if path in _KINDS or path in _PASSED_ON else "other"
            self._node.metrics.requests.labels(label, str(status)).inc()

    async def _serve(self, scope: Scope, path: str, receive: Receive, send: Send) -> int:
        if path.startswith(_STREAMS):
            return await self._resume(scope, path.removeprefix(_STREAMS), receive, send)
        kind = _KINDS.get(path)
        if kind is None and not path.startswith("/v1/") and path not in _PASSED_ON:
            raise RequestRejected(404, "unknown_route", f"There is no route {path}; the API is under /v1.")
        if kind is not None and scope["method"] != "POST":
            raise RequestRejected(405, "method_not_allowed", f"{path} takes POST.")
        body = await read_body(scope, receive, self._max_body_bytes)
        if kind is not None:
            generation = read_generation(kind, body)
            route = self._route(generation.model, generation.prefix)
            if generation.streaming:
                return await self._stream(scope, receive, send, route, generation)
            request = WholeRequest(
                "POST", path, _HEADERS, body, generation.model, generation.prefix, generation.max_tokens
            )
        else:
            query = scope["query_string"].decode("latin-1")
            model = read_model(body)
            route = self._route(model, b"")
            request = WholeRequest(scope["method"], path + (f"?{query}" if query else ""), _HEADERS, body, model)
        return await self._whole_requests.answer(request, route, receive, send)

    def _route(self, model: str | None, prefix: bytes) -> Route:
        """Raises NoReadyPeer, or RequestRejected (404) where nodes are ready, but none serves the model."""
        route = self._node.route(model, prefix)
        if route is not None:
            return route
        models = sorted(self._node.models())
        if not models:
            raise NoReadyPeer("No node of the fleet is ready to serve; try again shortly.", _RETRY_AFTER_S)
        have = ", ".join(models)
        raise RequestRejected(404, "model_not_found", f"The model {model!r} does not exist; served: {have}.", "model")

    async def _stream(self, scope: Scope, receive: Receive, send: Send, route: Route, generation: Generation) -> int:
        durable = _is_durable(header(scope, DURABILITY_HEADER))
        if self._streams.is_full:
            return await self._refuse(send)
        stream_id = secrets.token_hex(12)
        request_id = header(scope, REQUEST_ID)
        epoch = Epoch(1, self._node.instance_id)
        runs = (Run(0, epoch),)
        opening = Opening(generation, runs, request_id.decode("latin-1") if request_id else None)
        ahead = WriteAhead(stream_id, epoch, opening.to_bytes())
        avoid = [self._node.pool, route.node.pool]
        kept = self._keepers.begin(ahead, avoid, durable=durable)
        machine = StreamMachine(generation, stream_id, runs)
        stream = ClientStream(self._node, self._engines, machine, kept, Reply(send, stream_id, request_id))
        return await self._run(stream, stream.run(route), receive)

    async def _resume(self, scope: Scope, stream_id: str, receive: Receive, send: Send) -> int:
        if scope["method"] != "GET":
            raise RequestRejected(405, "method_not_allowed", "A stream is resumed with GET.")
        event = _last_event(stream_id, header(scope, b"last-event-id"))
        await read_body(scope, receive, 0)
        if self._streams.is_full:
            return await self._refuse(send)
        with self._counted_resume():
            takeover = await self._takeovers.take(event)
        kept = self._keepers.begin(takeover.ahead, [self._node.pool])
        request_id = takeover.request_id.encode("latin-1", "replace") if takeover.request_id else None
        reply = Reply(send, event.stream, request_id)
        stream = ClientStream(self._node, self._engines, takeover.machine, kept, reply, takeover.replay)
        return await self._run(stream, stream.resume(), receive)

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

    async def _run(self, stream: ClientStream, running: Coroutine[Any, Any, int], receive: Receive) -> int:
        self._streams.add(stream)
        before = stream.machine.tokens
        try:
            async with on_disconnect(receive, stream.abandon):
                return await running
        finally:
            self._streams.remove(stream)
            self._node.metrics.tokens.inc(max(0, stream.machine.tokens - before))

    async def _refuse(self, send: Send) -> int:
        message = f"This node holds {self._streams.most} streams, its bound; try another node, or again shortly."
        await respond_error(send, 429, "too_many_streams", message, retry_after_s=1.0)
        return 429

    async def _healthz(self, send: Send) -> None:
        await respond_json(send, {"status": "alive"})

    async def _readyz(self, send: Send) -> None:
        ready = self._node.state.takes_requests
        body = {"status": self._node.state.value, "instance_id": self._node.instance_id}
        await respond_json(send, body, 200 if ready else 503)

    async def _metrics(self, send: Send) -> None:
        await respond(send, 200, self._node.metrics.exposition(), CONTENT_TYPE.encode())

    async def _models(self, send: Send) -> None:
        data = [{"id": model, "object": "model", "created": 0, "owned_by": "synkti"} for model in self._node.models()]
        await respond_json(send, {"object": "list", "data": data})

    async def _nodes(self, send: Send) -> None:
        alive = [self._node.status(), *self._node.fleet.alive(self._node.clock())]
        await respond_json(send, {"self": self._node.instance_id, "nodes": [status.to_json() for status in alive]})


def _is_durable(asked: bytes | None) -> bool:
    """Whether the client wants its stream kept by peers. Raises RequestRejected."""
    if asked not in (None, b"peer", b"none"):
        raise RequestRejected(400, "invalid_request", f"{DURABILITY_HEADER.decode()} is peer or none.")
    return asked != b"none"


def _last_event(stream_id: str, last: bytes | None) -> EventId:
    """Raises RequestRejected."""
    if not last:
        return EventId(stream_id, 0)
    try:
        event = parse_event_id(last.decode("latin-1"))
    except ValueError as error:
        raise RequestRejected(400, "invalid_event_id", f"Last-Event-ID: {error}.") from error
    if event.stream != stream_id:
        raise RequestRejected(400, "invalid_event_id", f"Last-Event-ID is of stream {event.stream}, not {stream_id}.")
    return event
