"""Run one engine after another until a stream's answer is complete, the stream is closed, or no engine can continue it.

The task requests engines and waits for their ends. Response bytes bypass it (`runtime/client_api/engine_relay`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from enum import Enum

from node_agent.contract.errors import ContinuationImpossible, RequestRejected
from node_agent.contract.names import IN_S3
from node_agent.core.continuation.silence import SilenceDetector
from node_agent.core.failure.attempts import EngineResponse
from node_agent.core.failure.attribution import classify_answer, classify_event, classify_loss
from node_agent.core.failure.error_body import classify_body
from node_agent.core.failure.loss import Handoff, Loss, LossReason, UnknownLoss
from node_agent.core.failure.verdict import Origin, Verdict
from node_agent.core.node.status import NodeStatus
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.state import StreamState
from node_agent.core.streams.stream_error import StreamError, continuation_impossible, exhausted, rejected
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.ports import ExchangeLost, Response
from node_agent.runtime.client_api.current_engine import CurrentEngine
from node_agent.runtime.client_api.engine_relay import EngineRelay
from node_agent.runtime.client_api.interruption_report import InterruptionReport
from node_agent.runtime.client_api.next_engine import NextEngine
from node_agent.runtime.client_api.request_suspicion import RequestSuspicion
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.client_api.stream_attempts import StreamAttempts
from node_agent.runtime.client_api.stream_requests import StreamRequests
from node_agent.runtime.engine.client import EngineClient, answered_by, lost_by
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.replicated_stream import ReplicatedStream

WAIT_FOR_NODE_S = 15.0
"""How long a stream that began waits for a node to continue it, where none is ready."""

_MAX_REFUSAL_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


class LoopEnd(Enum):
    """Why a stream needs no further engine."""

    COMPLETE = "complete"
    """The answer is complete, and the client has all of its events."""

    CLOSED = "closed"
    """`close` was called."""


class EngineLoop:
    """The engines of one stream.

    Args:
        node: this node.
        engines: sends requests to engines.
        machine: decides about the stream's bytes.
        journal: delivers them to the client.
        sse_response: begins once an engine answers.
        report: of the stream's interruptions.
        routing: what the router has to know.
        headers: those that each engine receives.
    """

    def __init__(
        self,
        node: NodeContext,
        engines: EngineClient,
        machine: StreamMachine,
        journal: ReplicatedStream,
        sse_response: SseResponse,
        report: InterruptionReport,
        routing: RouteRequest,
        headers: Mapping[str, str],
    ) -> None:
        self._node = node
        self._machine = machine
        self._journal = journal
        self._sse = sse_response
        self._report = report
        self._stream_id = stream_id = journal.log.stream
        self._suspicion = RequestSuspicion(node.crash_suspects, machine.generation.body)
        self._attempts = StreamAttempts(node, machine.generation.route.value, stream_id, self._suspicion)
        self._requests = StreamRequests(engines, stream_id, machine, headers, self._suspicion, node.metrics)
        self._next = NextEngine(node, routing, lambda other: machine.can_continue_on(other.continuation_methods))
        self._engine = CurrentEngine()
        self._silence = SilenceDetector(node.min_silence_s)
        on_answer_begun = self._attempts.on_answer_begun
        self._relay = EngineRelay(machine, journal, self._engine, self._silence, report, on_answer_begun)
        self._clock = asyncio.get_running_loop().time

    async def run(self, first: Route) -> LoopEnd | StreamError | EngineResponse:
        """Run engines from this one on.

        Raises StaleEpoch where another node owns the stream.

        Returns:
            How it ended; for an answer that is not complete, the error for the client: this node's, or an engine's own.
        """
        return await self._run(first)

    async def resume(self) -> LoopEnd | StreamError | EngineResponse:
        """Run engines for a stream that was restored from its journal; return as `run`."""
        self._requests.context_source = IN_S3
        if self._machine.state is StreamState.FINISHED:
            self._relay.on_engine_end(LossReason.ENTRY_LOST)
            await self._complete()
            return LoopEnd.COMPLETE
        return await self._run(await self._wait_for_next())

    @property
    def node(self) -> NodeStatus | None:
        """The node of the current engine, or of the last one; None before the first."""
        return self._engine.route.node if self._engine.route is not None else None

    @property
    def first_output_at(self) -> float | None:
        """When the first output of an engine arrived, in monotonic seconds; None before any."""
        return self._attempts.first_output_at

    def close(self) -> None:
        """End the current engine, and request no further one."""
        self._engine.close()

    def pause(self, paused: bool) -> None:
        """Pause the engines while the client reads more slowly than they generate, or resume."""
        self._engine.pause(paused)

    async def _run(self, route: Route | None) -> LoopEnd | StreamError | EngineResponse:
        try:
            while route is not None:
                if await self._run_engine(route):
                    return LoopEnd.COMPLETE
                if self._machine.state is StreamState.AWAITING_NEXT_REQUEST and not self._engine.is_closed:
                    continue  # the same engine answers the next choice
                route = await self._wait_for_next() if self._attempts.may_retry else None
            return LoopEnd.CLOSED if self._engine.is_closed else self._exhausted()
        except ContinuationImpossible as impossible:
            return continuation_impossible(impossible)
        except RequestRejected as refused:
            return rejected(refused)

    async def _wait_for_next(self) -> Route | None:
        await self._node.turns.wait()
        wait_s = WAIT_FOR_NODE_S if self._sse.started else 0.0
        return await self._next.wait(wait_s, lambda: self._engine.is_closed)

    def _exhausted(self) -> StreamError | EngineResponse:
        """Return the error where no engine is left, or no other would answer differently.

        Raises RequestRejected for a request that has ended engines.
        """
        failed = self._attempts.failed
        if failed.response is not None:
            return failed.response
        if not failed.all_busy:
            self._suspicion.raise_if_refused()  # the last loss may have made it a refused one
        return exhausted(failed)

    async def _run_engine(self, route: Route) -> bool:
        """Run one engine.

        Raises ContinuationImpossible where it cannot continue the answer, RequestRejected where engines have ended
        under the request, StaleEpoch where another node owns the stream.

        Returns:
            True where the client has the complete answer, False where the engine was lost or answers the next choice.
        """
        node = route.node
        if self._machine.state is not StreamState.AWAITING_NEXT_REQUEST:
            self._next.add_tried(node)
        self._journal.engine = node.pool
        response = await self._requests.send(node, self._silence)
        self._engine.set(route, response)
        try:
            is_complete = await self._relay_response(route, response)
            if is_complete:
                await self._complete()
        finally:
            self._engine.release()
        return is_complete

    async def _relay_response(self, route: Route, response: Response) -> bool:
        """Relay a response to its end. Returns whether the answer is complete."""
        try:
            return await self._relay_to_end(route, response)
        except ExchangeLost as lost:
            by = lost_by(lost, is_own=self._is_own(route.node))
            return self._on_engine_end(route.node, lost.loss, by)

    async def _relay_to_end(self, route: Route, response: Response) -> bool:
        """Relay as `_relay_response`. Raises ExchangeLost."""
        await response.head()
        if response.status != 200 or not response.is_event_stream:
            await self._on_refusal(route.node, response)
            return False
        self._node.on_request_succeeded(route.node.instance_id)
        self._sse.start(route)
        await response.pipe(self._relay.on_data)
        return self._on_engine_end(route.node, LossReason.EOF, Origin.ENGINE)

    def _on_engine_end(self, node: NodeStatus, loss: Loss, by: Origin) -> bool:
        """Handle the end of an engine's response: its part was complete before, or is lost for this reason.

        Args:
            node: the engine's node.
            loss: why the response ended.
            by: which side ended it.

        Returns:
            Whether the answer is complete.
        """
        machine = self._machine
        if self._engine.is_closed:
            return False
        if machine.state is StreamState.LOST:
            by = Origin.ENGINE  # what was read before it broke off says why
        self._relay.on_engine_end(loss)
        if machine.state is StreamState.LOST:
            self._on_lost(node, machine.loss_reason, by)
        return machine.state is StreamState.COMPLETE

    async def _complete(self) -> None:
        """Wait until the client has the answer. Raises StaleEpoch."""
        self._suspicion.on_answer()  # also where tokens were not counted
        await self._journal.wait_until_delivered()

    async def _on_refusal(self, node: NodeStatus, response: Response) -> None:
        """Handle a response that is no stream."""
        body = await response.read_all(_MAX_REFUSAL_BYTES)
        # The node reports that it serves the model, or it would not have been chosen.
        kind, by = classify_body(body, has_model=True), answered_by(response, is_own=self._is_own(node))
        verdict = classify_answer(by, response.status, kind, is_continuation=self._is_continuation)
        content_type = response.headers.get(b"content-type", b"application/json")
        self._on_failed(node, verdict, EngineResponse(response.status, body, content_type))

    def _on_lost(self, node: NodeStatus, loss: Loss, by: Origin) -> None:
        """Handle a lost engine.

        Args:
            node: the engine's node.
            loss: why it was lost.
            by: which side lost it.
        """
        self._next.handoff_target = loss.target if isinstance(loss, Handoff) else None
        if isinstance(loss, UnknownLoss):
            _log.info("stream %s: %s reports %s", self._stream_id, node.instance_id, loss)
        if (error := self._machine.engine_error) and by is Origin.ENGINE:
            verdict = classify_event(error, is_continuation=self._is_continuation)
            self._on_failed(node, verdict, EngineResponse(200, error, is_event=True))
            return
        verdict = classify_loss(by, loss.reason)
        if verdict.is_death:
            self._suspicion.on_death(node.instance_id, loss)
        self._on_failed(node, verdict, None)

    def _on_failed(self, node: NodeStatus, verdict: Verdict, answer: EngineResponse | None) -> None:
        """Prepare the next attempt: this engine did not answer, or not to the end. answer: its error response."""
        if self._machine.state is not StreamState.LOST:
            self._machine.on_engine_end(LossReason.NO_STREAM)
        self._attempts.on_failed(node.instance_id, verdict, answer, self._machine.tokens)
        last_read_at = self._engine.response.last_read_at if self._engine.response is not None else 0.0
        since = self._silence.silent_since or last_read_at or self._clock()
        self._report.on_interrupted(node.instance_id, verdict.code, since)
        self._requests.context_source = node.instance_id

    @property
    def _is_continuation(self) -> bool:
        """Whether the current engine continues an answer, rather than answering the whole request."""
        return self._machine.method_choice is not None

    def _is_own(self, node: NodeStatus) -> bool:
        return node.instance_id == self._node.instance_id
