"""Serve clients' streams: begin one with its journal, or continue one that began anywhere, from its last event on."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

from node_agent.contract.errors import RequestRejected
from node_agent.contract.names import DURABILITY_HEADER
from node_agent.core.access.caller import Caller
from node_agent.core.journal.epochs import Epoch, EpochRange, EventId, parse_event_id
from node_agent.core.journal.stream_claim import STREAM_CHARACTERS, TOKEN_BYTES, ResumeToken, make_token, parse_token
from node_agent.core.journal.stream_header import StreamHeader
from node_agent.core.openai.client_headers import REQUEST_ID, stream_reader
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.factory import new_stream
from node_agent.core.streams.state import StreamState
from node_agent.ports import ServerRequest
from node_agent.runtime.client_api.audit import RequestRecord
from node_agent.runtime.client_api.client_stream import CLIENT_LEFT, ClientStream
from node_agent.runtime.client_api.key_limits import KeyLimiter, KeyRequest
from node_agent.runtime.client_api.request_admission import RequestAdmission, engine_headers
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.client_api.stream_registry import StreamRegistry
from node_agent.runtime.common.responses import answer_error
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.takeover import JournalBehind, Takeovers


class ClientStreams:
    """Begins and resumes streams. streams: those that are open here."""

    def __init__(
        self,
        node: NodeContext,
        admission: RequestAdmission,
        limits: KeyLimiter,
        engines: EngineClient,
        replication: ReplicationManager,
        takeovers: Takeovers,
        streams: StreamRegistry,
    ) -> None:
        self._node = node
        self._admission = admission
        self._limits = limits
        self._engines = engines
        self._replication = replication
        self._takeovers = takeovers
        self._streams = streams

    async def begin(
        self, request: ServerRequest, request_id: bytes, generation: GenerationRequest, record: RequestRecord
    ) -> int:
        """Begin a stream, and send it to its end. Raises what `RequestAdmission` raises.

        Returns:
            The status that the client received.
        """
        record.model = generation.model
        routing = await self._admission.routing_request(request, generation.model, generation.affinity_key)
        _is_durable(request.headers.get(DURABILITY_HEADER))  # refused before anything is counted
        if self._streams.is_full:
            return self._reject_full(request)
        cost = generation.token_estimate(len(request.body))
        route, started = await self._admission.admit(request, routing, cost, record.caller)
        try:
            stream = self._open(request, request_id, generation, routing, route, record.caller)
            self._node.continuity.begun += 1
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
        headers = engine_headers(request, request_id)
        return ClientStream(self._node, self._engines, machine, journal, sse_response, routing, headers=headers)

    async def resume(self, request: ServerRequest, text: str, record: RequestRecord) -> int:
        """Continue a stream of any node, from the Last-Event-ID on. text: its resume token.

        Raises JournalBehind and NoReadyPeer as `take_over` and `routing_request`.

        Returns:
            The status that the client received.

        Raises:
            RequestRejected: the id is malformed, or there is no such stream for this client.
        """
        token = parse_token(text)
        event = _last_event(token, request.headers.get(b"last-event-id"))
        if not token.is_possible:  # no search: while a node is away, that ends with a 503 and many retries
            raise RequestRejected(404, "stream_not_found", f"No stream has the id {text[:100]!r}.")
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
        routing = await self._admission.routing_request(request, generation.model, generation.affinity_key)
        stream = ClientStream(
            self._node, self._engines, takeover.machine, journal, sse_response, routing, takeover.replay
        )
        self._node.continuity.resumed += 1
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
            status = await running
            self._count_end(stream, status)
            return status
        finally:
            started.close()
            self._streams.remove(stream)
            record.tokens_in = stream.machine.prompt_tokens or None
            record.tokens_out = max(0, stream.machine.tokens - before)
            record.first_output_at = stream.first_output_at
            self._node.metrics.tokens.inc(record.tokens_out)

    def _count_end(self, stream: ClientStream, status: int) -> None:
        """Count how a stream ended; one that ended with this node's error was counted by it. status: as `run`'s."""
        if stream.machine.state is StreamState.COMPLETE:
            self._node.continuity.complete += 1
        elif status == CLIENT_LEFT:
            self._node.continuity.left += 1

    def _reject_full(self, request: ServerRequest) -> int:
        message = f"This node holds {self._streams.max_streams} streams, its bound; try another node, or again shortly."
        answer_error(request, 429, "too_many_streams", message, retry_after_s=1.0)
        return 429


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
