"""The front door: what clients call. Any node answers any request; the engine may be anywhere in the fleet.

    /v1/chat/completions, /v1/completions   streamed: a ClientStream; else retried whole
    /v1/responses, /v1/messages             the same
    other /v1 routes, /tokenize, ...        passed on, retried before the first byte
    /v1/streams/<id>                        a stream that began anywhere, from Last-Event-ID on
    /v1/models                              what the fleet serves
    /v1/synkti/nodes                        the fleet as this node sees it
    /v1/synkti/drains                       this node's drain, while it lives: what happened when
    /healthz /readyz /metrics               liveness, readiness, Prometheus

Every error is in OpenAI's form and says what to do.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from node_agent.contract.errors import FleetFull, NoReadyPeer, RequestRejected
from node_agent.contract.names import DURABILITY_HEADER, SESSION_HEADER
from node_agent.core.affinity import session_key
from node_agent.core.completions import Generation, Kind, read_event_stream, read_generation, read_model, stripped
from node_agent.core.epochs import Epoch, EventId, Run, parse_event_id
from node_agent.core.nodes import load_to_json
from node_agent.core.opening import Opening
from node_agent.core.router import Request
from node_agent.core.streams import begun
from node_agent.core.write_ahead import WriteAhead
from node_agent.ports import DoorRequest
from node_agent.tasks.answers import answer_error, answer_json
from node_agent.tasks.client_stream import ClientStream
from node_agent.tasks.draining import Draining
from node_agent.tasks.engines import Engines
from node_agent.tasks.entrance import Entrance
from node_agent.tasks.keepers import Keepers
from node_agent.tasks.metrics import CONTENT_TYPE
from node_agent.tasks.node import Node
from node_agent.tasks.open_streams import OpenStreams
from node_agent.tasks.reply import REQUEST_ID, Reply
from node_agent.tasks.takeover import JournalBehind, Takeovers
from node_agent.tasks.whole_request import ClientGone, WholeRequest, WholeRequests

_PASSED_ON = frozenset({"/tokenize", "/detokenize", "/version"})
_HEADERS = {"content-type": "application/json"}
_STREAMS = "/v1/streams/"
_MAX_SESSION_BYTES = 256

_KINDS = {kind.value: kind for kind in Kind}


class FrontDoor:
    """Answers clients' requests."""

    def __init__(
        self,
        node: Node,
        entrance: Entrance,
        engines: Engines,
        keepers: Keepers,
        takeovers: Takeovers,
        streams: OpenStreams,
        draining: Draining,
    ) -> None:
        self._node = node
        self._entrance = entrance
        self._engines = engines
        self._keepers = keepers
        self._takeovers = takeovers
        self._streams = streams
        self._draining = draining
        self.whole_requests = WholeRequests(node, engines)
        self._own_routes: dict[str, Callable[[DoorRequest], None]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/v1/models": self._models,
            "/v1/synkti/nodes": self._nodes,
            "/v1/synkti/drains": self._drains,
        }

    async def __call__(self, request: DoorRequest) -> None:
        path = request.path
        own = self._own_routes.get(path)
        if own is not None and request.method == "GET":
            own(request)
            return
        try:
            status = await self._serve(request, path)
        except ClientGone:
            status = 499
        except RequestRejected as rejected:
            status = rejected.status
            answer_error(request, status, rejected.code, str(rejected), param=rejected.param)
        except NoReadyPeer as none:
            status = 503
            answer_error(request, status, "no_ready_node", str(none), retry_after_s=none.retry_after_s)
        except FleetFull as full:
            status = 429
            answer_error(request, status, "fleet_full", str(full), retry_after_s=full.retry_after_s)
        except JournalBehind as behind:
            status = 503
            answer_error(request, status, "journal_behind", str(behind), retry_after_s=behind.retry_after_s)
        label = path if path in _KINDS or path in _PASSED_ON else "other"
        self._node.metrics.count_request(label, status)

    async def _serve(self, request: DoorRequest, path: str) -> int:
        if path.startswith(_STREAMS):
            return await self._resume(request, path.removeprefix(_STREAMS))
        kind = _KINDS.get(path)
        if kind in (Kind.CHAT, Kind.COMPLETION):
            return await self._complete(request, kind)
        if kind is None and not path.startswith("/v1/") and path not in _PASSED_ON:
            raise RequestRejected(404, "unknown_route", f"There is no route {path}; the API is under /v1.")
        generation = read_event_stream(kind, request.body) if kind is not None and request.method == "POST" else None
        if generation is not None:
            return await self._stream(request, generation)
        wanted = _wanted(request, read_model(request.body), None)
        route = await self._entrance.route(wanted, request)
        whole = WholeRequest(request.method, request.target, _HEADERS, stripped(request.body), wanted)
        return await self.whole_requests.answer(whole, route, request)

    async def _complete(self, request: DoorRequest, kind: Kind) -> int:
        if request.method != "POST":
            raise RequestRejected(405, "method_not_allowed", f"{kind.value} takes POST.")
        generation = read_generation(kind, request.body)
        if generation.streaming:
            return await self._stream(request, generation)
        wanted = _wanted(request, generation.model, generation.key)
        route = await self._entrance.route(wanted, request)
        body = stripped(request.body)
        whole = WholeRequest("POST", kind.value, _HEADERS, body, wanted, generation.max_tokens, generates=True)
        return await self.whole_requests.answer(whole, route, request)

    async def _stream(self, request: DoorRequest, generation: Generation) -> int:
        wanted = _wanted(request, generation.model, generation.key)
        durable = _is_durable(request.headers.get(DURABILITY_HEADER))
        if self._streams.is_full:
            return self._refuse(request)
        route = await self._entrance.route(wanted, request)
        stream_id = secrets.token_hex(12)
        request_id = request.headers.get(REQUEST_ID)
        epoch = Epoch(1, self._node.instance_id)
        runs = (Run(0, epoch),)
        opening = Opening(generation, runs, request_id.decode("latin-1") if request_id else None, durable)
        machine = begun(generation, stream_id, runs)
        ahead = WriteAhead(stream_id, epoch, opening.to_bytes(), log=machine.log)
        kept = self._keepers.begin(ahead, route.node.pool, durable=durable)
        reply = Reply(request, stream_id, request_id, generation.kind.value)
        stream = ClientStream(self._node, self._engines, machine, kept, reply, wanted)
        return await self._run(stream, stream.run(route))

    async def _resume(self, request: DoorRequest, stream_id: str) -> int:
        if request.method != "GET":
            raise RequestRejected(405, "method_not_allowed", "A stream is resumed with GET.")
        event = _last_event(stream_id, request.headers.get(b"last-event-id"))
        if self._streams.is_full:
            return self._refuse(request)
        with self._counted_resume():
            takeover = await self._takeovers.take(event)
        kept = self._keepers.begin(takeover.ahead, None, durable=takeover.durable)
        request_id = takeover.request_id.encode("latin-1", "replace") if takeover.request_id else None
        generation = takeover.machine.generation
        reply = Reply(request, event.stream, request_id, generation.kind.value)
        wanted = _wanted(request, generation.model, generation.key)
        stream = ClientStream(self._node, self._engines, takeover.machine, kept, reply, wanted, takeover.replay)
        return await self._run(stream, stream.resume())

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

    async def _run(self, stream: ClientStream, running: Coroutine[Any, Any, int]) -> int:
        self._streams.add(stream)
        before = stream.machine.tokens
        try:
            return await running
        finally:
            self._streams.remove(stream)
            self._node.metrics.tokens.inc(max(0, stream.machine.tokens - before))

    def _refuse(self, request: DoorRequest) -> int:
        message = f"This node holds {self._streams.most} streams, its bound; try another node, or again shortly."
        answer_error(request, 429, "too_many_streams", message, retry_after_s=1.0)
        return 429

    def _healthz(self, request: DoorRequest) -> None:
        answer_json(request, {"status": "alive"})

    def _readyz(self, request: DoorRequest) -> None:
        ready = self._node.state.takes_requests
        body = {"status": self._node.state.value, "instance_id": self._node.instance_id}
        answer_json(request, body, 200 if ready else 503)

    def _metrics(self, request: DoorRequest) -> None:
        request.respond(200, self._node.metrics.exposition(), CONTENT_TYPE.encode())

    def _models(self, request: DoorRequest) -> None:
        data = [{"id": model, "object": "model", "created": 0, "owned_by": "synkti"} for model in self._node.models()]
        answer_json(request, {"object": "list", "data": data})

    def _nodes(self, request: DoorRequest) -> None:
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

    def _drains(self, request: DoorRequest) -> None:
        record = self._draining.record
        answer_json(request, {"drains": [] if record is None else [record.to_json()]})


def _wanted(request: DoorRequest, model: str | None, key: int | None) -> Request:
    """What routing has to know. Raises RequestRejected."""
    session = request.headers.get(SESSION_HEADER)
    if not session:
        return Request(model, key)
    if len(session) > _MAX_SESSION_BYTES:
        name = SESSION_HEADER.decode()
        raise RequestRejected(400, "invalid_request", f"{name} has {_MAX_SESSION_BYTES} characters at most.")
    return Request(model, session_key(session.decode("latin-1")), by_session=True)


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
