"""Serve a request without continuation: send it to one engine after another until one answers.

`core/failure/attribution` decides whose fault a failure is, and so what follows. Nothing reaches the client before an
engine has answered in full or begun to stream, so a loss until then costs latency only. A stream that Synkti does not
continue (a transcription, a background response) is relayed as it arrives. A loss in its middle, also one that looks
like an end (`core/streams/end_of_stream`), ends it with an explicit error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from node_agent.contract.errors import FleetFull, NoReadyPeer
from node_agent.contract.names import NODE_HEADER, ROUTE_HEADER
from node_agent.core.failure.attempts import Attempts, EngineResponse
from node_agent.core.failure.attribution import classify_answer, classify_loss
from node_agent.core.failure.error_body import classify_body
from node_agent.core.failure.loss import Handoff, Loss, LossReason, UnknownLoss
from node_agent.core.failure.report import format_loss
from node_agent.core.failure.verdict import Origin, Verdict
from node_agent.core.node.status import NodeStatus
from node_agent.core.openai.client_headers import client_headers
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.end_of_stream import EndOfStreamDetector, error_event
from node_agent.ports import ExchangeLost, Response, ServerRequest
from node_agent.runtime.client_api.request_suspicion import RequestSuspicion
from node_agent.runtime.common.responses import EVENT_STREAM, MAX_ANSWER_BYTES, error_body, final_headers
from node_agent.runtime.engine.client import EngineClient, answered_by, lost_by
from node_agent.runtime.engine.keepalive import without_keepalives
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.crash_suspects import SUSPECT_HEADER

MAX_TOTAL_S = 900.0
"""For all engines together, in seconds; an answer that takes longer should be streamed."""

_RETRY_AFTER_S = 2.0
_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed its connection before it had its answer, so no answer is sent."""


class _AttemptFailed(Exception):
    """An engine did not serve the request.

    answer: the engine's error response, None where there was none.
    target: the node that has room, as the engine's node reported it.
    """

    def __init__(self, verdict: Verdict, answer: EngineResponse | None = None, target: str | None = None) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict
        self.answer = answer
        self.target = target


@dataclass(frozen=True)
class BufferedRequest:
    """A request to send to engines.

    target: path and query.
    routing: what the router has to know.
    max_tokens: of the answer, None where unknown.
    generates: whether a model has to answer it, so that every node that serves the model can.
    on_answer: receives the body of a successful answer that is not a stream, None where it is not needed.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    routing: RouteRequest
    max_tokens: int | None = None
    generates: bool = False
    on_answer: Callable[[bytes], None] | None = None


class BufferedRequests:
    """Sends BufferedRequests to the engines of the fleet and relays their answers."""

    def __init__(self, node: NodeContext, engines: EngineClient) -> None:
        self._node = node
        self._engines = engines
        self._active: set[Response] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._active)

    def close_with_handoff(self) -> None:
        """Abort the active requests because this node stops; their clients have to retry at another one."""
        self._is_closed = True
        for response in list(self._active):
            response.abort(Handoff())

    async def answer(self, request: BufferedRequest, first: Route, client: ServerRequest) -> int:
        """Answer a request, by one engine after another.

        Raises NoReadyPeer where no engine is left, FleetFull, RequestRejected for a request that ends engines,
        ClientGone.

        Returns:
            The status that the client received.
        """
        route: Route | None = first
        attempts, tried = Attempts(client.path), list[str]()
        clock = self._node.gossip.monotonic
        give_up_at = clock() + MAX_TOTAL_S
        while route is not None:
            last = route
            name = route.node.instance_id
            tried.append(name)
            try:
                status = await self._try_engine(request, route, client)
            except _AttemptFailed as failed:
                verdict = failed.verdict
                self._node.on_request_failed(name, verdict)
                _log.info("request to %s at %s: %s: %s", request.target, name, verdict.code, verdict.reason)
                if not attempts.record_failure(name, verdict, failed.answer) or clock() >= give_up_at:
                    break
                to = failed.target
                routing = replace(
                    request.routing, tried=tried, avoid=route.node.pool, handoff_target=to, is_continuation=True
                )
                found = self._node.route(routing)
                route = found if isinstance(found, Route) else None
            else:
                self._node.on_others_failed(attempts.in_doubt)
                return status
        return self._answer_exhausted(request, attempts, last, client)

    def _answer_exhausted(
        self, request: BufferedRequest, attempts: Attempts, last: Route, client: ServerRequest
    ) -> int:
        """Answer where no engine is left, or no other would answer differently.

        last: the route of the last attempt.

        Raises RequestRejected, rather than NoReadyPeer, for a request that ends engines.

        Returns:
            The status that the client received: an engine's own answer.

        Raises:
            FleetFull: no engine had room.
            NoReadyPeer: the engines lost the request.
        """
        if (answer := attempts.response) is not None:
            more = [*_route_headers(last), *answer.headers, *final_headers(answer.status)]
            client.respond(answer.status, answer.body, answer.content_type, more)
            return answer.status
        if attempts.all_busy:
            raise FleetFull("No engine had room for this request; try again.", _RETRY_AFTER_S)
        self._suspicion(request).raise_if_refused()  # the last loss may have made it a refused one
        message = f"The request was lost by {attempts.summary('nodes')}, and no other is ready; try again."
        raise NoReadyPeer(message, _RETRY_AFTER_S)

    async def _try_engine(self, request: BufferedRequest, route: Route, client: ServerRequest) -> int:
        """Send the request to one engine; where that does not serve it, _AttemptFailed is raised.

        Raises RequestRejected where it is refused because it ends engines.

        Returns:
            The status that the client received.

        Raises:
            ClientGone: the client left before it had its answer.
            NoReadyPeer: this node is stopping.
        """
        node = route.node
        suspicion = self._suspicion(request)
        suspicion.raise_if_refused()
        is_suspect = suspicion.is_suspect()
        headers = {**request.headers, SUSPECT_HEADER: "1"} if is_suspect else request.headers
        response = self._engines.request(
            node,
            request.method,
            request.target,
            headers,
            request.body,
            max_tokens=request.max_tokens,
            silence_timeout_s=MAX_TOTAL_S,
            turn=await self._engines.acquire_turn(node) if is_suspect else None,
        )
        self._active.add(response)
        client.when_gone(lambda: response.abort(LossReason.CLIENT_GONE))
        try:
            await response.head()
            status = await self._relay(request, response, route, client)
        except ExchangeLost as lost:
            if client.is_gone:
                raise ClientGone from lost
            if self._is_closed:
                raise NoReadyPeer("This node is stopping; retry at another one.", _RETRY_AFTER_S) from lost
            raise self._on_lost(request, route, lost_by(lost, is_own=self._is_own(node)), lost.loss) from lost
        finally:
            self._active.discard(response)
            response.close()
        self._node.on_request_succeeded(node.instance_id)
        suspicion.on_answer()
        return status

    def _suspicion(self, request: BufferedRequest) -> RequestSuspicion:
        return RequestSuspicion(self._node.crash_suspects, request.body)

    def _is_own(self, node: NodeStatus) -> bool:
        return node.instance_id == self._node.instance_id

    def _on_lost(self, request: BufferedRequest, route: Route, by: Origin, loss: Loss) -> _AttemptFailed:
        """Record an exchange that ended before its answer, and return the failed attempt."""
        verdict = classify_loss(by, loss.reason)
        self._node.metrics.losses.labels(verdict.code).inc()
        if verdict.is_death:
            self._suspicion(request).on_death(route.node.instance_id, loss)
        if isinstance(loss, UnknownLoss):
            _log.info("request to %s at %s: %s", request.target, route.node.instance_id, loss)
        return _AttemptFailed(verdict, target=loss.target if isinstance(loss, Handoff) else None)

    async def _relay(self, request: BufferedRequest, response: Response, route: Route, client: ServerRequest) -> int:
        """Relay the response to the client. Raises _AttemptFailed, ExchangeLost, ClientGone."""
        if response.is_event_stream and response.status < 400:
            await self._relay_stream(request, response, route, client)
            return response.status
        body = await response.read_all(MAX_ANSWER_BYTES)
        content_type, more = response.headers.get(b"content-type", b""), client_headers(response.headers)
        if response.status >= 300:
            # The node reports that it serves the model, or it would not have been chosen.
            kind = classify_body(body, has_model=request.generates)
            verdict = classify_answer(answered_by(response, is_own=self._is_own(route.node)), response.status, kind)
            raise _AttemptFailed(verdict, EngineResponse(response.status, body, content_type, more))
        if request.on_answer is not None:
            request.on_answer(body)
        client.respond(response.status, body, content_type, [*_route_headers(route), *more])
        return response.status

    async def _relay_stream(
        self, request: BufferedRequest, response: Response, route: Route, client: ServerRequest
    ) -> None:
        """Relay a stream as it arrives; a loss in its middle becomes its last event.

        _AttemptFailed is raised where it ends before its first event, ExchangeLost where it is lost before.

        Raises:
            ClientGone: the client left in its middle.
        """
        ending = EndOfStreamDetector()
        data = await response.read()
        while data and not (data := without_keepalives(data)):
            data = await response.read()
        first = ending.feed(data)
        loss = ending.incomplete_reason
        if loss is not None and not first.strip():
            raise self._on_lost(request, route, Origin.ENGINE, loss)  # nothing was sent yet: another engine may answer
        client.begin(response.status, EVENT_STREAM, _route_headers(route))
        client.write(first)
        client.when_congested(response.pause)
        try:
            await response.pipe(lambda data: client.write(ending.feed(without_keepalives(data))))
            loss = ending.incomplete_reason
        except ExchangeLost as lost:
            if client.is_gone:
                raise ClientGone from lost
            loss = lost.loss
        client.end(self._loss_event(client.path, loss) if loss is not None else b"")

    def _loss_event(self, path: str, loss: Loss) -> bytes:
        """Return the last event of a lost stream. Its leading blank line ends a half-sent event."""
        self._node.metrics.broken.labels("engine_lost").inc()
        message = f"The engine was lost ({format_loss(loss)}), and this stream cannot be continued."
        return b"\n\n" + error_event(path, error_body(path, 503, "engine_lost", message))


def _route_headers(route: Route) -> tuple[tuple[bytes, bytes], ...]:
    return ((ROUTE_HEADER.encode(), route.reason.encode()), (NODE_HEADER.encode(), route.node.instance_id.encode()))
