"""The task behind one client's stream: asks an engine, moves bytes through the machine, and goes on elsewhere.

All decisions about bytes are the machine's (`core/stream`); this is the shell that has connections and a clock. A
token waits here for its line's acknowledgement by the keepers, within their bound, and for the client's connection.
While it waits the engine's next tokens gather, and go together: the wait costs no throughput.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from node_agent.contract.errors import ContinuationImpossible, StaleEpoch
from node_agent.core import sse
from node_agent.core.fleet import NodeStatus, Pool
from node_agent.core.patience import Pace, first_token_s, silence_s
from node_agent.core.routing import Route
from node_agent.core.stream import StreamMachine, StreamState
from node_agent.ports import ExchangeLost, Response
from node_agent.tasks.engines import WRONG_MODEL, Engines
from node_agent.tasks.keepers import KeptStream
from node_agent.tasks.node import Node
from node_agent.tasks.reply import Reply

MAX_ENGINES = 3
"""Engines that may be lost under one stream before it ends with an error."""

WAIT_FOR_NODE_S = 15.0
"""How long a stream that began waits for any node to take it on, where none is ready."""

_OVER = (StreamState.COMPLETE, StreamState.LOST, StreamState.BETWEEN)
_LOOK_EVERY_S = 0.1
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

    replay: events that a client who came back lacks; kept: the stream's journal.
    """

    def __init__(
        self, node: Node, engines: Engines, machine: StreamMachine, kept: KeptStream, reply: Reply, replay: bytes = b""
    ) -> None:
        self.stream_id = kept.ahead.stream
        self.machine = machine
        self.kept = kept
        self._node = node
        self._engines = engines
        self._generation = machine.generation
        self._reply = reply
        self._replay = replay
        # The engine makes its own id of ours (chatcmpl-<stream>), so that one word finds a stream everywhere.
        self._headers = {"content-type": "application/json", "x-request-id": self.stream_id}
        self._opening: asyncio.Future[Response] | None = None
        self._response: Response | None = None
        self._closed: str | None = None  # why it ends early: handoff, client-gone
        self._tried: list[NodeStatus] = []
        self._loss: _Loss | None = None
        self._heard_at = 0.0  # loop time of the last bytes of any engine
        self._pace = Pace()
        self._clock = asyncio.get_running_loop().time

    async def run(self, first: Route) -> int:
        """Until the answer is complete or cannot go on; returns the HTTP status that the client saw."""
        try:
            return await self._engines_in_turn(first)
        except StaleEpoch:
            return await self._taken()
        finally:
            self.kept.close(finished=self.machine.state is StreamState.COMPLETE)

    async def resume(self) -> int:
        """Go on where another node, or an earlier connection, left the client; as `run`."""
        try:
            await self.kept.confirm()
            await self._reply.start(None)
            self._loss = _Loss(self._owner_before, "entry-lost", self._clock())
            if self._replay:
                await self._reply.events(self._gone_on(self._node.status(), self._clock()) + self._replay)
            if self.machine.state is StreamState.FINISHED:
                await self._deliver(self.machine.lose("resumed"))
                return await self._reply.end()
            return await self._engines_in_turn(await self._next_route())
        except StaleEpoch:
            return await self._taken()
        finally:
            self.kept.close(finished=self.machine.state is StreamState.COMPLETE)

    @property
    def _owner_before(self) -> str:
        """The instance that held the client's connection until now."""
        return self.machine.runs[-2].epoch.owner.partition("+")[0]

    async def _engines_in_turn(self, route: Route | None) -> int:
        while route is not None:
            status = await self._one_engine(route)
            if status is not None:
                return status
            if self._closed is None and self.machine.state is StreamState.BETWEEN:
                continue  # the same engine answers the next choice, too
            may_go_on = self._closed is None and len(self._tried) < MAX_ENGINES
            route = await self._next_route() if may_go_on else None
        if self._closed is not None:
            return await self._end_early()
        if len(self._tried) >= MAX_ENGINES:
            return await self._fail("engine_lost", f"{MAX_ENGINES} engines were lost under this request.")
        return await self._fail("no_ready_node", "No node is ready to go on with this request.")

    def keep_alive(self) -> None:
        self._reply.keep_alive()

    def abandon(self) -> None:
        """The client is gone: stop generating at once. Its journal stays, for the case that it comes back."""
        self._close("client-gone")

    def close_with_handoff(self) -> None:
        """This node goes: tell the client to resume elsewhere."""
        self._close("handoff")

    def give_up(self) -> None:
        """The client has come back on another connection: this one gets nothing more."""
        self.kept.close(finished=False)
        self.kept.fence()
        self._close("taken")

    def _close(self, why: str) -> None:
        self._closed = self._closed or why
        if self._response is not None:
            self._response.abort(why)
        if self._opening is not None:
            self._opening.cancel()

    async def _one_engine(self, route: Route) -> int | None:
        """One engine's part: the client's status when the request is over, None when the engine was lost."""
        node = route.node
        if self.machine.state is not StreamState.BETWEEN:
            self._tried.append(node)
        self.kept.avoid[1:] = [node.pool]
        try:
            request = self.machine.request()
        except ContinuationImpossible as impossible:
            return await self._fail(
                "continuation_impossible", f"The engine was lost, and {impossible} rules out to go on."
            )
        max_tokens = self._generation.max_tokens
        left = None if max_tokens is None else max(1, max_tokens - self.machine.tokens)
        asking = self._engines.open(
            node,
            "POST",
            request.path,
            self._headers,
            request.body,
            max_tokens=left,
            silence_s=first_token_s(len(request.body)),
        )
        self._opening = asyncio.ensure_future(asking)
        try:
            self._response = await self._opening
        except ExchangeLost as lost:
            self._lost(node, lost.why)
            return None
        except asyncio.CancelledError:
            if self._closed is None:
                raise
            return None  # the client is gone, or this node goes: nobody waits for the answer here
        finally:
            self._opening = None
        if self._closed is not None:
            self._response.abort(self._closed)  # it was closed between the answer's arrival and this line
        try:
            return await self._read(route, self._response)
        finally:
            self._response.close()
            self._response = None

    async def _read(self, route: Route, response: Response) -> int | None:
        if response.status != 200 or not response.is_event_stream:
            return await self._refused(route.node, response)
        await self._reply.start(route)
        machine, read, chunks = self.machine, response.read, 0
        while machine.state not in _OVER:
            asked_at = self._clock()
            try:
                data = await read()
                out = machine.feed(data) if data else machine.lose("eof")
            except ExchangeLost as lost:
                out = machine.lose(lost.why)
            if out:
                self._heard_at = now = self._clock()
                chunks += 1
                self._pace.observe(now - asked_at)
                if chunks % _RETUNE_EVERY == 1:
                    response.allow_silence(silence_s(self._pace.time_per_token_s, self._node.min_silence_s))
                await self._deliver(out, route.node)
        if machine.state is StreamState.COMPLETE:
            return await self._reply.end()
        if machine.state is StreamState.LOST:
            self._lost(route.node, machine.lost_why)
        return None

    async def _deliver(self, out: bytes, node: NodeStatus | None = None) -> None:
        """Write the lines ahead, then send. Raises StaleEpoch instead, where the stream is somebody else's."""
        if lines := self.machine.take_lines():
            await self.kept.write(lines)
        if self._loss is not None and node is not None:
            out = self._gone_on(node, self._clock()) + out
        await self._reply.events(out)

    async def _refused(self, node: NodeStatus, response: Response) -> int | None:
        """An answer that is no stream: the client's own fault (4xx) is passed on, all else is a loss.

        A 404 is none of the client's: the node said that it serves the model, or it would not have been chosen.
        """
        try:
            body = await response.read_all(_MAX_REFUSAL_BYTES)
        except ExchangeLost as lost:
            self._lost(node, lost.why)
            return None
        if response.status == 404:
            self._lost(node, WRONG_MODEL)
            return None
        if self.machine.seq or not 400 <= response.status < 500:
            self._lost(node, f"status-{response.status}")
            return None
        return await self._reply.refuse(response.status, body)

    def _lost(self, node: NodeStatus, why: str) -> None:
        if self._closed is not None:
            return
        if self.machine.state is not StreamState.LOST:
            self.machine.lose(why)
        if self._loss is None:
            # From the last bytes on: a silence is part of the pause that the client waits.
            self._loss = _Loss(node.instance_id, why, self._heard_at or self._clock())
        self._node.metrics.losses.labels(why).inc()
        _log.info("stream %s: lost %s: %s, after %d tokens", self.stream_id, node.instance_id, why, self.machine.tokens)

    def _gone_on(self, node: NodeStatus, now: float) -> bytes:
        """The stream goes on: count the pause, and say it in a comment that SSE clients ignore."""
        loss, self._loss = self._loss, None
        if loss is None or not self.machine.seq:
            return b""
        pause_s = now - loss.since
        self._node.metrics.continuations.labels(loss.why).inc()
        self._node.metrics.pause.observe(pause_s)
        told = f"synkti continued on {node.instance_id} after {loss.why} on {loss.node}"
        told += f", pause {pause_s * 1000:.1f} ms"
        _log.info("stream %s: %s", self.stream_id, told)
        return sse.comment(told)

    async def _next_route(self) -> Route | None:
        """Another engine: outside the lost pool where possible; of those that were tried, any but the last."""
        give_up_at = self._clock() + (WAIT_FOR_NODE_S if self._reply.started else 0.0)
        tried = [node.instance_id for node in self._tried]
        last: Pool | None = self._tried[-1].pool if self._tried else None
        while self._closed is None:
            for not_again in (tried, tried[-1:]):
                route = self._node.route(self._generation.model, self._generation.prefix, not_again, avoid=last)
                if route is not None:
                    return route
            if self._clock() >= give_up_at:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        return None

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
        serving = self._node.fleet.serving(self._node.clock())
        return ", ".join(
            node.front for node in sorted(serving, key=lambda n: n.instance_id not in self.kept.ahead.copies)
        )

    async def _taken(self) -> int:
        message = f"Stream {self.stream_id} was resumed elsewhere; nothing more comes here."
        return await self._fail("stream_taken", message, 409)

    async def _fail(self, code: str, message: str, status: int = 503) -> int:
        """An explicit error, never a clean ending."""
        self._node.metrics.broken.labels(code).inc()
        _log.warning("stream %s: %s: %s", self.stream_id, code, message)
        return await self._reply.fail(status, code, message)
