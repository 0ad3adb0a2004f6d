"""The task behind one client's stream: asks an engine, moves bytes through the machine, and goes on elsewhere.

All decisions about bytes are the machine's (`core/streams/factory`); this is the shell that has connections and a
clock. The task asks engines and waits for their ends; what comes from them passes beside it, from one callback to the
next: the engine's connection, the machine, the journal (`runtime/replication/replicated_stream`), the client's
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from node_agent.contract.errors import ContinuationImpossible, RequestRejected, StaleEpoch
from node_agent.contract.names import DURABILITY_HEADER, IN_S3, KV_HEADER, NOT_DURABLE
from node_agent.core.continuation.timeouts import (
    TokenRate,
    first_token_timeout_s,
    inter_token_timeout_s,
    keepalive_interval_s,
)
from node_agent.core.failure.attempts import Attempts, EngineResponse
from node_agent.core.failure.attribution import (
    Origin,
    Verdict,
    classify_answer,
    classify_body,
    classify_event,
    classify_loss,
)
from node_agent.core.failure.report import parse_death, parse_loss
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.core.openai import sse
from node_agent.core.openai.request_digest import request_digest
from node_agent.core.replication.replicated_log import CloseReason
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.factory import StreamMachine
from node_agent.core.streams.state import StreamState
from node_agent.ports import ExchangeLost, Response
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.engine.client import EngineClient, answered_by, lost_by
from node_agent.runtime.engine.keepalive import KEEPALIVES, OVERTAKEN
from node_agent.runtime.engine.watchdog import SILENCE
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.node.crash_suspects import SUSPECT_HEADER
from node_agent.runtime.replication.replicated_stream import ReplicatedStream

WAIT_FOR_NODE_S = 15.0
"""How long a stream that began waits for any node to take it on, where none is ready."""

_OVER = (StreamState.COMPLETE, StreamState.LOST, StreamState.AWAITING_NEXT_REQUEST)
_LOOK_EVERY_S = 0.1
_SAME_AGAIN_AFTER_S = 0.5
"""Before a node is asked again that has lost this stream: where there is no other, it is not to be hurried."""

_END_WITHIN_S = 0.2
"""Between an engine's [DONE] and the end of its response."""

_RETUNE_EVERY = 64
_MAX_REFUSAL_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass
class _Loss:
    """What to tell once the stream goes on: from where, why, since when (loop time)."""

    node: str
    why: str
    since: float


class ClientStream:
    """One stream of one client. `run` it; `close_with_handoff` ends it early, `abandon` when the client is gone.

    wanted: what routing has to know; replay: events that a client who came back lacks; kept: the stream's journal;
    headers: the client's, as far as engines are sent them.
    """

    def __init__(
        self,
        node: NodeContext,
        engines: EngineClient,
        machine: StreamMachine,
        kept: ReplicatedStream,
        reply: SseResponse,
        wanted: RouteRequest,
        replay: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.stream_id = kept.log.stream
        self.machine = machine
        self.kept = kept
        self._node = node
        self._engines = engines
        self._generation = machine.generation
        self._reply = reply
        self._wanted = replace(wanted, is_continuation=True)
        self._replay = replay
        # The engine makes its own id of ours (chatcmpl-<stream>), so that one word finds a stream everywhere.
        self._headers = {**(headers or {}), "content-type": "application/json", "x-request-id": self.stream_id}
        if not kept.log.replication_factor:
            self._headers[DURABILITY_HEADER.decode()] = NOT_DURABLE
        self._context_at = ""  # the node whose engine had the context last, as KV_HEADER says it
        self._route: Route | None = None  # to the engine that is asked now
        self._response: Response | None = None
        self._closed: str | None = None  # why it ends early: handoff, client-gone, taken
        self._tried: list[NodeStatus] = []
        self._tries = Attempts()
        self._may_go_on = True  # whether another engine may be asked after the last loss
        self._content: bytes | None = None  # see _content_of
        self._handed_to: str | None = None  # who has room, by the word of the node that gave the stream back
        self._loss: _Loss | None = None
        self._heard_at = 0.0  # loop time of the last bytes of the engine that was lost last
        self._quiet_since = 0.0  # loop time since which only signs of life come; 0 while tokens do
        self._silence_s = 0.0  # how long this may last where the engine serves others meanwhile
        self._retune_at = 1  # the event at which to look at the engine's pace
        self._paced_seq = 0
        self._paced_at = 0.0
        self._is_congested = False
        self._pace = TokenRate()
        self._clock = asyncio.get_running_loop().time
        self._keep = kept.write
        machine.writer.includes_ids = reply.reader.wants_event_ids
        kept.deliver = reply.request.write
        kept.on_fenced = self._fenced
        kept.on_replication_stopped = self._unkept
        reply.unkept = kept.log.stop_reason
        reply.request.when_gone(self.abandon)
        reply.request.when_congested(self._congested)

    async def run(self, first: Route) -> int:
        """Until the answer is complete or cannot go on; returns the HTTP status that the client saw."""
        try:
            return await self._engines_in_turn(first)
        except StaleEpoch:
            return await self._taken()
        finally:
            self.kept.close(self._closing())

    async def resume(self) -> int:
        """Go on where another node, or an earlier connection, left the client; as `run`."""
        try:
            await self.kept.confirm_ownership()
            self._reply.start(None)
            self._loss = _Loss(self._owner_before, "entry-lost", self._clock())
            self._context_at = IN_S3
            if self._replay:
                self._reply.request.write(self._gone_on(self._node.status(), self._clock()) + self._replay)
            if self.machine.state is StreamState.FINISHED:
                self._deliver(self.machine.on_engine_end("resumed"))
                return await self._end()
            return await self._engines_in_turn(await self._next_route())
        except StaleEpoch:
            return await self._taken()
        finally:
            self.kept.close(self._closing())

    def _closing(self) -> CloseReason:
        """What becomes of the journal, by how the stream has ended."""
        if self.machine.state is StreamState.COMPLETE:
            return CloseReason.FINISHED
        if self._closed in ("handoff", "taken"):
            return CloseReason.MOVED
        is_known = self._reply.started or len(self.machine.writer.ranges) > 1
        return CloseReason.ABANDONED if is_known else CloseReason.NEVER_ANNOUNCED

    @property
    def _owner_before(self) -> str:
        """The instance that held the client's connection until now."""
        return self.machine.writer.ranges[-2].epoch.owner.partition("+")[0]

    async def _engines_in_turn(self, route: Route | None) -> int:
        while route is not None:
            status = await self._one_engine(route)
            if status is not None:
                return status
            if self._closed is None and self.machine.state is StreamState.AWAITING_NEXT_REQUEST:
                continue  # the same engine answers the next choice, too
            may_go_on = self._closed is None and self._may_go_on
            route = await self._next_route() if may_go_on else None
        if self._closed is not None:
            return await self._end_early()
        return await self._in_vain()

    async def _in_vain(self) -> int:
        """No engine is left to ask, or no other would say more."""
        tries = self._tries
        if (answer := tries.response) is not None:
            await self.kept.wait_until_delivered()
            return self._reply.pass_on(answer)
        if tries.all_busy:
            return await self._fail("fleet_full", "No engine had room for this request; try again.", 429)
        if tries.is_at_bound:
            return await self._fail("engine_lost", f"{tries.summary('engines')} were lost under this request.")
        after = f", after {tries.summary('engines')} lost it" if tries.codes else ""
        return await self._fail("no_ready_node", f"No node is ready to go on with this request{after}.")

    def keep_alive(self) -> None:
        self._reply.keep_alive(self.kept.log.committed)

    def abandon(self) -> None:
        """The client is gone: stop generating at once. Its journal stays, for the case that it comes back."""
        self._close("client-gone")

    def close_with_handoff(self) -> None:
        """This node goes: tell the client to resume elsewhere."""
        self._close("handoff")

    def give_up(self) -> None:
        """The client has come back on another connection: this one gets nothing more."""
        self.kept.close(CloseReason.MOVED)
        self.kept.fence()
        self._close("taken")

    def _fenced(self) -> None:
        self._close("taken")

    def _unkept(self) -> None:
        """The journal has become too large for any peer: the client may want to know what it cannot resume."""
        self._reply.unkept = why = self.kept.log.stop_reason
        if self._reply.started and self._reply.reader.wants_event_ids:
            self._reply.request.write(sse.comment(f"synkti keeps this stream at no other node any more: {why}"))

    def _close(self, why: str) -> None:
        self._closed = self._closed or why
        if self._response is not None:
            self._response.abort(why)

    def _congested(self, is_congested: bool) -> None:
        """The client takes less than the engine gives: the engine has to wait for it."""
        self._is_congested = is_congested
        if self._response is not None:
            self._response.pause(is_congested)

    async def _one_engine(self, route: Route) -> int | None:
        """One engine's part: the client's status when the request is over, None when the engine was lost."""
        node = route.node
        context_at = self._context_at
        if self.machine.state is StreamState.AWAITING_NEXT_REQUEST:
            context_at = ""  # the same engine as before has it
        else:
            self._tried.append(node)
        self.kept.engine = node.pool
        try:
            request = self.machine.request(node.continuation_methods)
        except ContinuationImpossible as impossible:
            return await self._fail(
                "continuation_impossible", f"The engine was lost, and {impossible} rules out to go on."
            )
        if (chosen := self.machine.method_choice) is not None:
            self._node.metrics.ways.labels(chosen.method.value).inc()
            _log.info("stream %s: goes on by %s: %s", self.stream_id, chosen.method.value, chosen.reason)
        try:
            is_suspect = bool(self._node.deadly) and self._node.deadly.check(self._content_of())
        except RequestRejected as refused:
            return await self._fail(refused.code, str(refused), refused.status)
        await self._engines.prefetch(node, self.stream_id, context_at)
        turn = await self._engines.acquire_turn(node) if is_suspect else None
        max_tokens = self._generation.max_tokens
        self._route = route
        self._retune_at, self._paced_seq = self.machine.seq + 1, 0
        self._quiet_since, self._silence_s = 0.0, first_token_timeout_s(len(request.body))
        self._response = response = self._engines.request(
            node,
            "POST",
            request.path,
            self._headers_with(context_at, is_suspect=is_suspect),
            request.body,
            max_tokens=None if max_tokens is None else max(1, max_tokens - self.machine.tokens),
            silence_timeout_s=self._silence_s,
            turn=turn,
        )
        del request  # its body is as large as the client's, and the answer may take minutes
        if self._closed is not None:
            response.abort(self._closed)  # before there was anything to abort
        response.pause(self._is_congested)
        try:
            return await self._read(route, response)
        except ExchangeLost as lost:
            return await self._engine_ended(node, lost.why, lost_by(lost, is_own=self._is_own(node)))
        finally:
            self._heard_at = response.last_read_at or self._heard_at
            self._response = None
            response.close()

    def _headers_with(self, context_at: str, *, is_suspect: bool) -> dict[str, str]:
        more = {KV_HEADER: context_at} if context_at else {}
        if is_suspect:
            more[SUSPECT_HEADER] = "1"
        return {**self._headers, **more} if more else self._headers

    def _content_of(self) -> bytes | None:
        """See `core/openai/request_digest`; it takes a while, and is seldom asked for."""
        if self._content is None:
            self._content = request_digest(self._generation.body)
        return self._content

    async def _read(self, route: Route, response: Response) -> int | None:
        await response.head()
        if response.status != 200 or not response.is_event_stream:
            return await self._refused(route.node, response)
        self._node.succeeded(route.node.instance_id)
        self._reply.start(route)
        await response.pipe(self._take)
        return await self._engine_ended(route.node, "eof", Origin.ENGINE)

    async def _engine_ended(self, node: NodeStatus, why: str, by: Origin) -> int | None:
        """The engine says nothing more: its part was over before, or is lost for this reason. by: who broke it off."""
        if self._closed is not None:
            return None
        if self.machine.state is StreamState.LOST:
            by = Origin.ENGINE  # what was read before it broke off says why
        if out := self.machine.on_engine_end(why):
            self._deliver(out)
        if self.machine.state is StreamState.COMPLETE:
            return await self._end()
        if self.machine.state is StreamState.LOST:
            self._lost(node, self.machine.loss_reason, by)
        return None

    def _take(self, data: bytes) -> None:
        """Bytes of the engine that is asked now. Called by its connection, for each token."""
        machine = self.machine
        out = machine.feed(data)
        if not out and data in KEEPALIVES:
            self._shown(data)
            return
        self._quiet_since = 0.0
        if out:
            seq = machine.writer.seq
            if self._loss is None:
                self._keep(seq, out)
            else:
                self._deliver(out)
            if seq >= self._retune_at:
                self._retune()
        if machine.state is not StreamState.STREAMING and machine.state in _OVER:
            self._over()

    def _shown(self, sign: bytes) -> None:
        """The engine's node lives; with OVERTAKEN, the engine has served others since this stream's last token."""
        now = self._clock()
        self._quiet_since = self._quiet_since or now - keepalive_interval_s(self._node.min_silence_s)
        if sign == OVERTAKEN and now - self._quiet_since >= self._silence_s and self._response is not None:
            self._response.abort(SILENCE)

    def _retune(self) -> None:
        """How long the engine may be silent, by its pace since the last look: often at first, then seldom."""
        response, seq = self._response, self.machine.writer.seq
        if response is None:
            return
        self._answered()
        if self._paced_seq:
            self._pace.observe((response.last_read_at - self._paced_at) / max(1, seq - self._paced_seq))
        self._paced_seq, self._paced_at = seq, response.last_read_at
        self._retune_at = seq + min(max(seq, 1), _RETUNE_EVERY)
        if not self._pace.time_per_token_s:
            return  # nothing is judged by a pace before there is one
        by_pace = inter_token_timeout_s(self._pace.time_per_token_s, self._node.min_silence_s)
        if (allowed := self.machine.token_timeout_s(by_pace)) is not None:
            self._silence_s = allowed
            response.set_read_timeout(allowed)

    def _over(self) -> None:
        """Nothing more is wanted of this engine; after a whole answer its connection may be used again."""
        if self._response is None:
            return
        if self.machine.state is StreamState.COMPLETE:
            self._response.end_within(_END_WITHIN_S)
        else:
            self._response.abort("over")

    def _deliver(self, out: bytes) -> None:
        """Hand events on; they follow their lines."""
        if self._loss is not None and self._route is not None:
            out = self._gone_on(self._route.node, self._clock()) + out
        self.kept.write(self.machine.writer.seq, out)

    async def _end(self) -> int:
        if self._node.deadly:
            self._node.deadly.answered(self._content_of())  # also where no token was told apart
        await self.kept.wait_until_delivered()
        return self._reply.end()

    def _is_own(self, node: NodeStatus) -> bool:
        return node.instance_id == self._node.instance_id

    def _answered(self) -> None:
        """The engine has begun to answer: whoever could not is found wanting, and the request ends no engines."""
        if self._tries.in_doubt:
            self._node.found_wanting(self._tries.in_doubt)
            self._tries.in_doubt.clear()
        if self._node.deadly and self.machine.tokens:
            self._node.deadly.answered(self._content_of())

    async def _refused(self, node: NodeStatus, response: Response) -> int | None:
        """An answer that is no stream."""
        body = await response.read_all(_MAX_REFUSAL_BYTES)
        # The node said that it serves the model, or it would not have been chosen.
        kind, by = classify_body(body, has_model=True), answered_by(response, is_own=self._is_own(node))
        verdict = classify_answer(by, response.status, kind, is_continuation=self.machine.method_choice is not None)
        content_type = response.headers.get(b"content-type", b"application/json")
        self._failed(node, verdict, EngineResponse(response.status, body, content_type))
        return None

    def _lost(self, node: NodeStatus, line: str, by: Origin) -> None:
        """line: why, as `core/failure/report` writes it; by: who lost it."""
        if self._closed is not None:
            return
        why, self._handed_to = parse_loss(line)
        if (error := self.machine.engine_error) and by is Origin.ENGINE:
            verdict = classify_event(error, is_continuation=self.machine.method_choice is not None)
            self._failed(node, verdict, EngineResponse(200, error, is_event=True))
            return
        verdict = classify_loss(by, why)
        if verdict.is_death:
            self._node.deadly.died(self._content_of(), node.instance_id, parse_death(line))
        self._failed(node, verdict, None)

    def _failed(self, node: NodeStatus, verdict: Verdict, answer: EngineResponse | None) -> None:
        """The engine of this node did not answer, or not to the end. answer: what it said in its place."""
        self._node.failed(node.instance_id, verdict)
        self._may_go_on = self._tries.failed(node.instance_id, verdict, answer)
        why = verdict.code
        if self.machine.state is not StreamState.LOST:
            self.machine.on_engine_end(why)
        if self._loss is None:
            # From the last bytes on: a silence is part of the pause that the client waits.
            heard_at = self._response.last_read_at if self._response is not None else self._heard_at
            self._loss = _Loss(node.instance_id, why, self._quiet_since or heard_at or self._clock())
        self._context_at = node.instance_id
        self._node.metrics.losses.labels(why).inc()
        _log.info(
            "stream %s: lost %s: %s, after %d tokens: %s",
            self.stream_id, node.instance_id, why, self.machine.tokens, verdict.reason,
        )  # fmt: skip

    def _gone_on(self, node: NodeStatus, now: float) -> bytes:
        """The stream goes on: count the pause, and say it in a comment to a client that takes comments."""
        loss, self._loss = self._loss, None
        if loss is None or not self.machine.seq:
            return b""
        pause_s = now - loss.since
        self._node.metrics.continuations.labels(loss.why).inc()
        self._node.metrics.pause.observe(pause_s)
        told = f"synkti continued on {node.instance_id} after {loss.why} on {loss.node}"
        told += f", pause {pause_s * 1000:.1f} ms"
        _log.info("stream %s: %s", self.stream_id, told)
        return sse.comment(told) if self._reply.reader.wants_event_ids else b""

    async def _next_route(self) -> Route | None:
        """Another engine: outside the lost pool where possible; of those that were tried, any but the last."""
        give_up_at = self._clock() + (WAIT_FOR_NODE_S if self._reply.started else 0.0)
        tried = [node.instance_id for node in self._tried]
        last: Pool | None = self._tried[-1].pool if self._tried else None
        while self._closed is None:
            for not_again, able in ((tried, self._can), (tried[-1:], self._can), (tried[-1:], None)):
                wanted = replace(
                    self._wanted, tried=not_again, can_serve=able, avoid=last, handoff_target=self._handed_to
                )
                route = self._node.route(wanted)
                if isinstance(route, Route):
                    if route.node.instance_id in tried:
                        await asyncio.sleep(_SAME_AGAIN_AFTER_S * len(tried))
                    return route
            if self._clock() >= give_up_at:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        return None

    def _can(self, node: NodeStatus) -> bool:
        """Whether a node's engine can go on with this answer. One that cannot, chosen last, says why it ends."""
        return self.machine.can_continue_on(node.continuation_methods)

    async def _end_early(self) -> int:
        if self._closed == "taken":
            return await self._taken()
        if self._closed == "handoff":
            return await self._fail(
                "handoff", f"This node is going; resume stream {self.stream_id} at: {self._fronts() or 'none'}."
            )
        return 499  # nginx's word for a client that closed its request

    def _fronts(self) -> str:
        """Where to resume: the keepers first, since they have the journal at hand."""
        serving = self._node.members.view.serving
        return ", ".join(
            node.client_address for node in sorted(serving, key=lambda n: n.instance_id not in self.kept.log.replicas)
        )

    async def _taken(self) -> int:
        message = f"Stream {self.stream_id} was resumed elsewhere; nothing more comes here."
        return await self._fail("stream_taken", message, 409)

    async def _fail(self, code: str, message: str, status: int = 503) -> int:
        """An explicit error, never a clean ending."""
        with contextlib.suppress(StaleEpoch):
            await self.kept.wait_until_delivered()
        self._node.metrics.broken.labels(code).inc()
        _log.warning("stream %s: %s: %s", self.stream_id, code, message)
        return self._reply.fail(status, code, message)
