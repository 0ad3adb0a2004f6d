"""Serve one client's stream: request an engine, pass its bytes on, continue elsewhere after a loss.

The machine (`core/streams/factory`) makes all decisions about bytes; this module adds connections and a clock. The task
requests engines and waits for their ends. Response bytes bypass the task and pass from one callback to the next: the
engine's connection, the machine, the journal (`runtime/replication/replicated_stream`), the client's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from node_agent.contract.errors import ContinuationImpossible, RequestRejected, StaleEpoch
from node_agent.contract.names import DURABILITY_HEADER, IN_S3, KV_HEADER, NOT_DURABLE
from node_agent.core.continuation.timeouts import (
    TokenRate,
    first_token_timeout_s,
    inter_token_timeout_s,
    keepalive_interval_s,
)
from node_agent.core.failure.attempts import Attempts, EngineResponse
from node_agent.core.failure.attribution import classify_answer, classify_event, classify_loss
from node_agent.core.failure.error_body import classify_body
from node_agent.core.failure.loss import Handoff, Loss, LossReason, UnknownLoss
from node_agent.core.failure.verdict import Origin, Verdict
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.openai import sse
from node_agent.core.openai.request_digest import request_digest
from node_agent.core.replication.replicated_log import CloseReason
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.state import ENGINE_DONE, StreamState
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.ports import ExchangeLost, Response
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.engine.client import EngineClient, answered_by, lost_by
from node_agent.runtime.engine.keepalive import KEEPALIVES, OVERTAKEN
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.crash_suspects import SUSPECT_HEADER
from node_agent.runtime.replication.replicated_stream import ReplicatedStream

WAIT_FOR_NODE_S = 15.0
"""How long a stream that began waits for a node to continue it, where none is ready."""

_POLL_INTERVAL_S = 0.1
_RETRY_SAME_NODE_S = 0.5
"""Wait before a node that lost this stream is tried again: without another node, it needs time to recover."""

_END_TIMEOUT_S = 0.2
"""Between an engine's [DONE] and the end of its response."""

_RETUNE_MAX_EVENTS = 64
_MAX_REFUSAL_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


class _EarlyClose(Enum):
    """Why a stream's connection ends before the stream does."""

    HANDOFF = "handoff"  # this node stops
    CLIENT_GONE = "client-gone"
    TAKEN = "taken"  # another connection or another node serves the client


@dataclass
class _Interruption:
    """A loss to report once the stream continues."""

    node: str
    """The instance id of the node that was lost."""

    code: str
    """The verdict's code, or that of ENTRY_LOST."""

    since: float
    """Its loop time."""


class ClientStream:
    """One stream of one client. `run` it; `close_with_handoff` ends it early, `abandon` when the client is gone.

    journal: the stream's replicated journal.
    routing: what the router has to know.
    replay: events that a returning client lacks.
    headers: the client's, as far as engines receive them.
    """

    def __init__(
        self,
        node: NodeContext,
        engines: EngineClient,
        machine: StreamMachine,
        journal: ReplicatedStream,
        sse_response: SseResponse,
        routing: RouteRequest,
        replay: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.stream_id = journal.log.stream
        self.machine = machine
        self.journal = journal
        self._node = node
        self._engines = engines
        self._generation = machine.generation
        self._sse = sse_response
        self._routing = replace(routing, is_continuation=True)
        self._replay = replay
        # The engine makes its own id of ours (chatcmpl-<stream>), so that one word finds a stream everywhere.
        self._headers = {**(headers or {}), "content-type": "application/json", "x-request-id": self.stream_id}
        if not journal.log.replication_factor:
            self._headers[DURABILITY_HEADER.decode()] = NOT_DURABLE
        self._context_source = ""  # the node whose engine had the context last, as KV_HEADER says it
        self._route: Route | None = None  # to the engine that is asked now
        self._response: Response | None = None
        self._close_reason: _EarlyClose | None = None
        self._tried: list[NodeStatus] = []
        self._attempts = Attempts()
        self._may_retry = True  # whether another engine may be asked after the last loss
        self._digest: bytes | None = None  # see _content_of
        self._handoff_target: str | None = None  # who has room, by the word of the node that gave the stream back
        self._interruption: _Interruption | None = None
        self._last_read_at = 0.0  # loop time of the last bytes of the engine that was lost last
        self._silent_since = 0.0  # loop time since which only signs of life come; 0 while tokens do
        self._silence_timeout_s = 0.0  # how long this may last where the engine serves others meanwhile
        self._retune_at = 1  # the event at which to look at the engine's pace
        self._rate_seq = 0
        self._rate_at = 0.0
        self._is_congested = False
        self._token_rate = TokenRate()
        self._clock = asyncio.get_running_loop().time
        self._journal_write = journal.write
        machine.writer.includes_ids = sse_response.reader.wants_event_ids
        journal.deliver = sse_response.request.write
        journal.on_fenced = self._on_fenced
        journal.on_replication_stopped = self._on_not_durable
        sse_response.not_durable_reason = journal.log.stop_reason
        sse_response.request.when_gone(self.abandon)
        sse_response.request.when_congested(self._on_congestion)

    async def run(self, first: Route) -> int:
        """Serve the stream until it is complete or cannot be continued; return the status that the client received."""
        try:
            return await self._run_engines(first)
        except StaleEpoch:
            return await self._fail_taken_over()
        finally:
            self.journal.close(self._closing())

    async def resume(self) -> int:
        """Resume where another node, or an earlier connection, stopped serving the client; returns as `run`."""
        try:
            await self.journal.confirm_ownership()
            self._sse.start(None)
            self._interruption = _Interruption(self._previous_owner, LossReason.ENTRY_LOST.value, self._clock())
            self._context_source = IN_S3
            if self._replay:
                self._sse.request.write(self._on_continued(self._node.status(), self._clock()) + self._replay)
            if self.machine.state is StreamState.FINISHED:
                self._deliver(self.machine.on_engine_end(LossReason.ENTRY_LOST))
                return await self._end()
            return await self._run_engines(await self._next_route())
        except StaleEpoch:
            return await self._fail_taken_over()
        finally:
            self.journal.close(self._closing())

    def _closing(self) -> CloseReason:
        """Return what becomes of the journal, by how the stream ended."""
        if self.machine.state is StreamState.COMPLETE:
            return CloseReason.FINISHED
        if self._close_reason in (_EarlyClose.HANDOFF, _EarlyClose.TAKEN):
            return CloseReason.MOVED
        is_known = self._sse.started or len(self.machine.writer.ranges) > 1
        return CloseReason.ABANDONED if is_known else CloseReason.NEVER_ANNOUNCED

    @property
    def _previous_owner(self) -> str:
        """The instance that held the client's connection until now."""
        return self.machine.writer.ranges[-2].epoch.owner.partition("+")[0]

    async def _run_engines(self, route: Route | None) -> int:
        try:
            while route is not None:
                status = await self._run_engine(route)
                if status is not None:
                    return status
                if self._close_reason is None and self.machine.state is StreamState.AWAITING_NEXT_REQUEST:
                    continue  # the same engine answers the next choice
                may_retry = self._close_reason is None and self._may_retry
                route = await self._next_route() if may_retry else None
            if self._close_reason is not None:
                return await self._end_early()
            return await self._fail_exhausted()
        except RequestRejected as refused:
            return await self._fail(refused.code, str(refused), refused.status)

    async def _fail_exhausted(self) -> int:
        """Fail the stream: no engine is left, or no other would answer differently.

        Raises RequestRejected for a request that has ended engines.

        Returns:
            The status that the client received.
        """
        attempts = self._attempts
        if (answer := attempts.response) is not None:
            await self.journal.wait_until_delivered()
            return self._sse.relay_error(answer)
        if attempts.all_busy:
            return await self._fail("fleet_full", "No engine had room for this request; try again.", 429)
        self._raise_if_refused()  # the last loss may have made it a refused one
        if attempts.is_at_bound:
            return await self._fail("engine_lost", f"{attempts.summary('engines')} were lost under this request.")
        after = f", after {attempts.summary('engines')} lost it" if attempts.codes else ""
        return await self._fail("no_ready_node", f"No node is ready to continue this request{after}.")

    def keep_alive(self) -> None:
        """Write a keep-alive where the client has received nothing for a while. Call it every COMMENT_EVERY_S."""
        self._sse.keep_alive(self.journal.log.committed)

    def abandon(self) -> None:
        """Stop generating at once: the client is gone. The journal stays, so that the client can come back."""
        self._close(_EarlyClose.CLIENT_GONE)

    def close_with_handoff(self) -> None:
        """End the stream because this node stops; the client receives where to resume."""
        self._close(_EarlyClose.HANDOFF)

    def release(self) -> None:
        """End this connection because the client came back on another one; it receives nothing more."""
        self.journal.close(CloseReason.MOVED)
        self.journal.fence()
        self._close(_EarlyClose.TAKEN)

    def _on_fenced(self) -> None:
        self._close(_EarlyClose.TAKEN)

    def _on_not_durable(self) -> None:
        """Report that the journal became too large to replicate: the client may want to know that it cannot resume."""
        self._sse.not_durable_reason = why = self.journal.log.stop_reason
        if self._sse.started and self._sse.reader.wants_event_ids:
            self._sse.request.write(sse.comment(f"synkti no longer replicates this stream: {why}"))

    def _close(self, why: _EarlyClose) -> None:
        """End the connection; only the first reason counts."""
        self._close_reason = self._close_reason or why
        if self._response is not None:
            self._response.abort(LossReason.CLOSED)

    def _on_congestion(self, is_congested: bool) -> None:
        """Pause the engine while the client reads more slowly than the engine generates."""
        self._is_congested = is_congested
        if self._response is not None:
            self._response.pause(is_congested)

    def _is_suspect(self) -> bool:
        """Return whether engines have died under this request."""
        suspects = self._node.crash_suspects
        return bool(suspects) and suspects.is_suspect(self._request_digest())

    def _raise_if_refused(self) -> None:
        """Raise RequestRejected for a request that is refused because it ends engines."""
        if suspects := self._node.crash_suspects:
            suspects.raise_if_refused(self._request_digest())

    async def _run_engine(self, route: Route) -> int | None:
        """Run one engine.

        Raises RequestRejected as `_raise_if_refused`.

        Returns:
            The client's status where the request is over; None where the engine was lost, or answers the next choice.
        """
        node = route.node
        context_source = self._context_source
        if self.machine.state is StreamState.AWAITING_NEXT_REQUEST:
            context_source = ""  # the same engine as before has it
        else:
            self._tried.append(node)
        self.journal.engine = node.pool
        try:
            request = self.machine.request(node.continuation_methods)
        except ContinuationImpossible as impossible:
            return await self._fail(
                "continuation_impossible", f"The engine was lost, and {impossible} rules out a continuation."
            )
        if (chosen := self.machine.method_choice) is not None:
            self._node.metrics.continuation_methods.labels(chosen.method.value).inc()
            _log.info("stream %s: continues by %s: %s", self.stream_id, chosen.method.value, chosen.reason)
        self._raise_if_refused()
        is_suspect = self._is_suspect()
        await self._engines.prefetch(node, self.stream_id, context_source)
        turn = await self._engines.acquire_turn(node) if is_suspect else None
        max_tokens = self._generation.max_tokens
        self._route = route
        self._retune_at, self._rate_seq = self.machine.seq + 1, 0
        self._silent_since, self._silence_timeout_s = 0.0, first_token_timeout_s(len(request.body))
        self._response = response = self._engines.request(
            node,
            "POST",
            request.path,
            self._engine_headers(context_source, is_suspect=is_suspect),
            request.body,
            max_tokens=None if max_tokens is None else max(1, max_tokens - self.machine.tokens),
            silence_timeout_s=self._silence_timeout_s,
            turn=turn,
        )
        del request  # its body is as large as the client's, and the answer may take minutes
        if self._close_reason is not None:
            response.abort(LossReason.CLOSED)  # before there was anything to abort
        response.pause(self._is_congested)
        try:
            return await self._relay(route, response)
        except ExchangeLost as lost:
            return await self._on_engine_end(node, lost.loss, lost_by(lost, is_own=self._is_own(node)))
        finally:
            self._last_read_at = response.last_read_at or self._last_read_at
            self._response = None
            response.close()

    def _engine_headers(self, context_source: str, *, is_suspect: bool) -> dict[str, str]:
        more = {KV_HEADER: context_source} if context_source else {}
        if is_suspect:
            more[SUSPECT_HEADER] = "1"
        return {**self._headers, **more} if more else self._headers

    def _request_digest(self) -> bytes | None:
        """Return the request's digest (`core/openai/request_digest`), None for an empty body.

        It is computed at first use: it takes a while and is seldom needed.
        """
        if self._digest is None:
            self._digest = request_digest(self._generation.body)
        return self._digest

    async def _relay(self, route: Route, response: Response) -> int | None:
        await response.head()
        if response.status != 200 or not response.is_event_stream:
            return await self._on_refusal(route.node, response)
        self._node.on_request_succeeded(route.node.instance_id)
        self._sse.start(route)
        await response.pipe(self._on_data)
        return await self._on_engine_end(route.node, LossReason.EOF, Origin.ENGINE)

    async def _on_engine_end(self, node: NodeStatus, loss: Loss, by: Origin) -> int | None:
        """Handle the end of an engine's response: its part was complete before, or is lost for this reason.

        Args:
            node: the engine's node.
            loss: why the response ended.
            by: which side ended it.

        Returns:
            The client's status where the answer is complete, else None.

        Returns:
            The client's status where the stream is complete, else None.
        """
        if self._close_reason is not None:
            return None
        if self.machine.state is StreamState.LOST:
            by = Origin.ENGINE  # what was read before it broke off says why
        if out := self.machine.on_engine_end(loss):
            self._deliver(out)
        if self.machine.state is StreamState.COMPLETE:
            return await self._end()
        if self.machine.state is StreamState.LOST:
            self._on_lost(node, self.machine.loss_reason, by)
        return None

    def _on_data(self, data: bytes) -> None:
        """Process bytes of the current engine. Its connection calls this, once per token."""
        machine = self.machine
        out = machine.feed(data)
        if not out and data in KEEPALIVES:
            self._on_keepalive(data)
            return
        self._silent_since = 0.0
        if out:
            seq = machine.writer.seq
            if self._interruption is None:
                self._journal_write(seq, out)
            else:
                self._deliver(out)
            if seq >= self._retune_at:
                self._retune_timeout()
        if machine.state is not StreamState.STREAMING and machine.state in ENGINE_DONE:
            self._finish_engine()

    def _on_keepalive(self, keepalive: bytes) -> None:
        """Handle a keep-alive of the engine's node.

        OVERTAKEN: the engine served others since this stream's last token; for too long, the stream is lost there.
        """
        now = self._clock()
        self._silent_since = self._silent_since or now - keepalive_interval_s(self._node.min_silence_s)
        if (
            keepalive == OVERTAKEN
            and now - self._silent_since >= self._silence_timeout_s
            and self._response is not None
        ):
            self._response.abort(LossReason.SILENCE)

    def _retune_timeout(self) -> None:
        """Adapt the inter-token timeout to the rate since the last call: often at first, then seldom."""
        response, seq = self._response, self.machine.writer.seq
        if response is None:
            return
        self._on_answer_begun()
        if self._rate_seq:
            self._token_rate.observe((response.last_read_at - self._rate_at) / max(1, seq - self._rate_seq))
        self._rate_seq, self._rate_at = seq, response.last_read_at
        self._retune_at = seq + min(max(seq, 1), _RETUNE_MAX_EVENTS)
        if not self._token_rate.time_per_token_s:
            return  # nothing is judged by a pace before there is one
        timeout_s = inter_token_timeout_s(self._token_rate.time_per_token_s, self._node.min_silence_s)
        if (allowed := self.machine.token_timeout_s(timeout_s)) is not None:
            self._silence_timeout_s = allowed
            response.set_read_timeout(allowed)

    def _finish_engine(self) -> None:
        """End the engine's response: no more is needed. After a complete answer its connection can be reused."""
        if self._response is None:
            return
        if self.machine.state is StreamState.COMPLETE:
            self._response.end_within(_END_TIMEOUT_S)
        else:
            self._response.abort(LossReason.CLOSED)

    def _deliver(self, out: bytes) -> None:
        """Hand events to the journal, which delivers them after their records."""
        if self._interruption is not None and self._route is not None:
            out = self._on_continued(self._route.node, self._clock()) + out
        self.journal.write(self.machine.writer.seq, out)

    async def _end(self) -> int:
        if self._node.crash_suspects:
            self._node.crash_suspects.on_answer(self._request_digest())  # also where tokens were not counted
        await self.journal.wait_until_delivered()
        return self._sse.end()

    def _is_own(self, node: NodeStatus) -> bool:
        return node.instance_id == self._node.instance_id

    def _on_answer_begun(self) -> None:
        """Clear the request of suspicion once an engine answers.

        Nodes that could not answer it are at fault, and it ends no engines.
        """
        if self._attempts.in_doubt:
            self._node.on_others_failed(self._attempts.in_doubt)
            self._attempts.in_doubt.clear()
        if self._node.crash_suspects and self.machine.tokens:
            self._node.crash_suspects.on_answer(self._request_digest())

    async def _on_refusal(self, node: NodeStatus, response: Response) -> int | None:
        """Handle a response that is no stream."""
        body = await response.read_all(_MAX_REFUSAL_BYTES)
        # The node reports that it serves the model, or it would not have been chosen.
        kind, by = classify_body(body, has_model=True), answered_by(response, is_own=self._is_own(node))
        verdict = classify_answer(by, response.status, kind, is_continuation=self.machine.method_choice is not None)
        content_type = response.headers.get(b"content-type", b"application/json")
        self._on_failure(node, verdict, EngineResponse(response.status, body, content_type))
        return None

    def _on_lost(self, node: NodeStatus, loss: Loss, by: Origin) -> None:
        """Handle a lost engine.

        Args:
            node: the engine's node.
            loss: why it was lost.
            by: which side lost it.
        """
        if self._close_reason is not None:
            return
        self._handoff_target = loss.target if isinstance(loss, Handoff) else None
        if isinstance(loss, UnknownLoss):
            _log.info("stream %s: %s reports %s", self.stream_id, node.instance_id, loss)
        if (error := self.machine.engine_error) and by is Origin.ENGINE:
            verdict = classify_event(error, is_continuation=self.machine.method_choice is not None)
            self._on_failure(node, verdict, EngineResponse(200, error, is_event=True))
            return
        verdict = classify_loss(by, loss.reason)
        if verdict.is_death:
            self._node.crash_suspects.on_loss(self._request_digest(), node.instance_id, loss)
        self._on_failure(node, verdict, None)

    def _on_failure(self, node: NodeStatus, verdict: Verdict, answer: EngineResponse | None) -> None:
        """Record that this node's engine did not answer, or not to the end. answer: its error response."""
        self._node.on_request_failed(node.instance_id, verdict)
        self._may_retry = self._attempts.record_failure(node.instance_id, verdict, answer)
        code = verdict.code
        if self.machine.state is not StreamState.LOST:
            self.machine.on_engine_end(LossReason.NO_STREAM)
        if self._interruption is None:
            # Since the last bytes: a silence is part of the client's pause.
            last_read_at = self._response.last_read_at if self._response is not None else self._last_read_at
            self._interruption = _Interruption(
                node.instance_id, code, self._silent_since or last_read_at or self._clock()
            )
        self._context_source = node.instance_id
        self._node.metrics.losses.labels(code).inc()
        _log.info(
            "stream %s: lost %s: %s, after %d tokens: %s",
            self.stream_id, node.instance_id, code, self.machine.tokens, verdict.reason,
        )  # fmt: skip

    def _on_continued(self, node: NodeStatus, now: float) -> bytes:
        """Record the pause of a continued stream; return a comment about it for a client that accepts comments."""
        interruption, self._interruption = self._interruption, None
        if interruption is None or not self.machine.seq:
            return b""
        pause_s = now - interruption.since
        self._node.metrics.continuations.labels(interruption.code).inc()
        self._node.metrics.pause.observe(pause_s)
        comment = f"synkti continued on {node.instance_id} after {interruption.code} on {interruption.node}"
        comment += f", pause {pause_s * 1000:.1f} ms"
        _log.info("stream %s: %s", self.stream_id, comment)
        return sse.comment(comment) if self._sse.reader.wants_event_ids else b""

    async def _next_route(self) -> Route | None:
        """Return a route to another engine, None where there is none in time, or the stream ends early.

        Outside the lost pool if possible; of the engines tried, any but the last.
        """
        give_up_at = self._clock() + (WAIT_FOR_NODE_S if self._sse.started else 0.0)
        tried = [node.instance_id for node in self._tried]
        last: Pool | None = self._tried[-1].pool if self._tried else None
        while self._close_reason is None:
            for excluded, able in (
                (tried, self._can_continue_on),
                (tried[-1:], self._can_continue_on),
                (tried[-1:], None),
            ):
                routing = replace(
                    self._routing, tried=excluded, can_serve=able, avoid=last, handoff_target=self._handoff_target
                )
                route = self._node.route(routing)
                if isinstance(route, Route):
                    if route.node.instance_id in tried:
                        await asyncio.sleep(_RETRY_SAME_NODE_S * len(tried))
                    return route
            if self._clock() >= give_up_at:
                break
            await asyncio.sleep(_POLL_INTERVAL_S)
        return None

    def _can_continue_on(self, node: NodeStatus) -> bool:
        """Return whether a node's engine can continue this answer.

        One that cannot, chosen last, gives the reason that it ends.
        """
        return self.machine.can_continue_on(node.continuation_methods)

    async def _end_early(self) -> int:
        if self._close_reason is _EarlyClose.TAKEN:
            return await self._fail_taken_over()
        if self._close_reason is _EarlyClose.HANDOFF:
            return await self._fail(
                "handoff",
                f"This node is stopping; resume stream {self.stream_id} at: {self._resume_addresses() or 'none'}.",
            )
        return 499  # nginx's word for a client that closed its request

    def _resume_addresses(self) -> str:
        """Return where to resume: replicas first, since they have the journal."""
        serving = self._node.members.view.serving
        return ", ".join(
            node.client_address
            for node in sorted(serving, key=lambda n: n.instance_id not in self.journal.log.replicas)
        )

    async def _fail_taken_over(self) -> int:
        message = f"Stream {self.stream_id} was resumed elsewhere; nothing more comes here."
        return await self._fail("stream_taken", message, 409)

    async def _fail(self, code: str, message: str, status: int = 503) -> int:
        """End the stream with an explicit error, never with a clean end."""
        with contextlib.suppress(StaleEpoch):
            await self.journal.wait_until_delivered()
        self._node.metrics.broken.labels(code).inc()
        _log.warning("stream %s: %s: %s", self.stream_id, code, message)
        return self._sse.fail(status, code, message)
