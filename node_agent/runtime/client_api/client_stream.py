"""Serve one client's stream on its connection: start it, or resume it, and end it with an end or an explicit error.

The machine (`core/streams/factory`) makes all decisions about bytes, `runtime/client_api/engine_loop` runs the engines,
and the journal (`runtime/replication/replicated_stream`) writes to the client's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from enum import Enum

from node_agent.contract.errors import StaleEpoch
from node_agent.contract.names import DURABILITY_HEADER, NOT_DURABLE
from node_agent.core.failure.attempts import EngineResponse
from node_agent.core.failure.loss import LossReason
from node_agent.core.node.status import NodeStatus
from node_agent.core.openai import sse
from node_agent.core.replication.replicated_log import CloseReason
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.state import StreamState
from node_agent.core.streams.stream_error import MOVED, StreamError, handed_off, taken_over
from node_agent.core.streams.stream_machine import StreamMachine
from node_agent.runtime.client_api.engine_loop import EngineLoop, LoopEnd
from node_agent.runtime.client_api.interruption_report import InterruptionReport
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.engine.client import EngineClient
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.replicated_stream import ReplicatedStream

_log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""The status of a stream whose client closed its connection: nginx's word for it."""


class _EarlyClose(Enum):
    """Why a stream's connection ends before the stream does."""

    HANDOFF = "handoff"  # this node stops
    CLIENT_GONE = "client-gone"
    TAKEN = "taken"  # another connection or another node serves the client


class ClientStream:
    """One stream of one client. `run` it; `close_with_handoff` ends it early, `abandon` when the client is gone.

    journal: the stream's replicated journal.
    routing: what the router has to know.
    replay: events that a returning client lacks.
    headers: the client's, as far as engines receive them.
    `began_at`: unix seconds of the connection's begin.
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
        self._sse = sse_response
        self._replay = replay
        self._close_reason: _EarlyClose | None = None
        self._clock = asyncio.get_running_loop().time
        accepts_comments = sse_response.reader.wants_event_ids
        self._report = InterruptionReport(
            self.stream_id, node.metrics, wants_comments=accepts_comments, on_continued=node.record_continued
        )
        self.began_at = node.wall_clock()
        to_engines = dict(headers or {})
        if not journal.log.replication_factor:
            to_engines[DURABILITY_HEADER.decode()] = NOT_DURABLE
        self._engines = EngineLoop(node, engines, machine, journal, sse_response, self._report, routing, to_engines)
        machine.writer.includes_ids = sse_response.reader.wants_event_ids
        journal.deliver = sse_response.request.write
        journal.on_fenced = self._on_fenced
        journal.on_replication_stopped = self._on_not_durable
        sse_response.not_durable_reason = journal.log.stop_reason
        sse_response.request.when_gone(self.abandon)
        sse_response.request.when_congested(self._engines.pause)

    async def run(self, first: Route) -> int:
        """Serve the stream until it is complete or cannot be continued; return the status that the client received."""
        try:
            return await self._finish(await self._engines.run(first))
        except StaleEpoch:
            return await self._fail(taken_over(self.stream_id))
        finally:
            self.journal.close(self._closing())

    async def resume(self) -> int:
        """Resume where another node, or an earlier connection, stopped serving the client; returns as `run`."""
        try:
            await self.journal.confirm_ownership()
            self._sse.start(None)
            self._report.on_interrupted(self._previous_owner, LossReason.ENTRY_LOST.value, self._clock())
            if self._replay:
                has_begun = bool(self.machine.seq)
                comment = self._report.on_continued(self._node.instance_id, self._clock(), has_begun=has_begun)
                self._sse.request.write(comment + self._replay)
            return await self._finish(await self._engines.resume())
        except StaleEpoch:
            return await self._fail(taken_over(self.stream_id))
        finally:
            self.journal.close(self._closing())

    @property
    def engine_node(self) -> NodeStatus | None:
        """The node whose engine generates the stream, or did last; None before the first."""
        return self._engines.node

    @property
    def is_interrupted(self) -> bool:
        """Whether the stream lost its engine, or its entry, and has not continued yet."""
        return self._report.pending is not None

    @property
    def first_output_at(self) -> float | None:
        """When this node received the first output of an engine, in monotonic seconds; None before any."""
        return self._engines.first_output_at

    @property
    def _previous_owner(self) -> str:
        """The instance that held the client's connection until now."""
        return self.machine.writer.ranges[-2].epoch.owner.partition("+")[0]

    def keep_alive(self) -> None:
        """Write a keep-alive where the client has received nothing for a while. Call it every COMMENT_EVERY_S."""
        self._sse.keep_alive(self.journal.log.committed)

    # early ends

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

    def _close(self, why: _EarlyClose) -> None:
        """End the connection; only the first reason counts."""
        self._close_reason = self._close_reason or why
        self._engines.close()

    def _on_not_durable(self) -> None:
        """Report that the journal became too large to replicate: the client may want to know that it cannot resume."""
        self._sse.not_durable_reason = why = self.journal.log.stop_reason
        if self._sse.started and self._sse.reader.wants_event_ids:
            self._sse.request.write(sse.comment(f"synkti no longer replicates this stream: {why}"))

    # the end

    async def _finish(self, end: LoopEnd | StreamError | EngineResponse) -> int:
        """End the stream as its engines ended; return the status that the client received. Raises StaleEpoch."""
        if isinstance(end, StreamError):
            return await self._fail(end)
        if end is LoopEnd.CLOSED:
            return await self._end_early()
        if end is LoopEnd.COMPLETE:
            return self._sse.end()
        await self.journal.wait_until_delivered()
        return self._sse.relay_error(end)

    async def _end_early(self) -> int:
        if self._close_reason is _EarlyClose.TAKEN:
            return await self._fail(taken_over(self.stream_id))
        if self._close_reason is _EarlyClose.HANDOFF:
            return await self._fail(handed_off(self._resume_addresses()))
        return CLIENT_LEFT

    def _resume_addresses(self) -> list[str]:
        """Return where to resume: replicas first, since they have the journal."""
        serving, replicas = self._node.members.view.serving, self.journal.log.replicas
        return [node.client_address for node in sorted(serving, key=lambda node: node.instance_id not in replicas)]

    async def _fail(self, error: StreamError) -> int:
        """End the stream with an explicit error, never with a clean end; return the status that the client received."""
        with contextlib.suppress(StaleEpoch):
            await self.journal.wait_until_delivered()
        metrics = self._node.metrics
        (metrics.moved if error.code in MOVED else metrics.broken).labels(error.code).inc()
        self._node.record_ended(error.code)
        _log.warning("stream %s: %s: %s", self.stream_id, error.code, error.message)
        return self._sse.fail(error.status, error.code, error.message)

    def _closing(self) -> CloseReason:
        """Return what becomes of the journal, by how the stream ended."""
        if self.machine.state is StreamState.COMPLETE:
            return CloseReason.FINISHED
        if self._close_reason in (_EarlyClose.HANDOFF, _EarlyClose.TAKEN):
            return CloseReason.MOVED
        is_known = self._sse.started or len(self.machine.writer.ranges) > 1
        return CloseReason.ABANDONED if is_known else CloseReason.NEVER_ANNOUNCED
