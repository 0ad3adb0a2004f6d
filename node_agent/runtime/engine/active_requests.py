"""Track the requests at this node's engine: of its own clients and, through the peer API, of other nodes.

Every request to the local engine passes here, so that the drain planner has all of them and can hand each one back to
its entry: the entry then loses the exchange with a Handoff, and continues where the planner says. Requests have no
timer of their own: the engine's watchdog judges whether a silent one is lost (`runtime/engine/watchdog`).

When the engine dies, the entry of a request without an answer learns that the engine's process ended
(`core/engine/lifetime`), not only that a connection broke. Requests that an engine died under before run one at a time,
so that the next death identifies the one that caused it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from node_agent.contract.names import DURABILITY_HEADER, NOT_DURABLE
from node_agent.core.common.address import Address
from node_agent.core.continuation.timeouts import first_token_timeout_s, inter_token_timeout_s
from node_agent.core.drain.planner import ServedStream
from node_agent.core.engine.lifetime import (
    EngineLifetime,
    answer_start_timeout_s,
    may_indicate_death,
    reports_death,
    starts_answer,
)
from node_agent.core.failure.attribution import reports_dead_engine
from node_agent.core.failure.loss import Handoff, LossReason
from node_agent.ports import EngineGroup, ExchangeLost, Http, Response
from node_agent.runtime.engine.response_proxy import ResponseProxy
from node_agent.runtime.node.context import NodeContext

_DURABILITY = DURABILITY_HEADER.decode()
_SAMPLE_TOKENS = 4
"""Tokens that a request needs before its rate counts."""

_BYTES_PER_TOKEN = 4
"""Of a prompt that was not counted: about what tokenizers make of English."""

_OPENING_READS = 2
"""Of a stream, which the API server may send before the core has done anything for it."""

_READ_TIMEOUT_S = 900.0
"""Of the connection to the engine, whatever the watchdog finds."""

_DEATH_TIMEOUT_S = 0.25
"""From a connection's end to the end of its process, as the system reports them."""

_HEALTH_TIMEOUT_S = 1.0
_TURN_TIMEOUT_S = 10.0
"""How long a suspect waits for those before it to be answered."""

_FEW_SUSPECTS = 8
_BUSY_TURN_TIMEOUT_S = 1.0
"""The same with more suspects: after a busy engine's end there may be hundreds, nearly all of them innocent."""

_T = TypeVar("_T")


class Turn:
    """A suspect's turn: until the engine has begun to answer it, or it is over."""

    def __init__(self, lock: asyncio.Lock, *, has_lock: bool) -> None:
        self._lock = lock
        self._has_lock = has_lock

    def release(self) -> None:
        """End the turn, so that the next suspect has its own; may be called again."""
        if self._has_lock:
            self._has_lock = False
            self._lock.release()


class EngineCall(ResponseProxy):
    """One request at the local engine.

    body_bytes: of the request.
    own: whether this node is its entry.
    request_id: its stream's id.
    durable: whether its client wants its stream replicated.
    silence_timeout_s: how long it may be silent although the engine serves others; set by an entry on this node.
    is_overtaken: whether it was silent for longer than that.
    turn: of a request that an engine died under before.
    """

    def __init__(
        self,
        registry: EngineCalls,
        key: int,
        max_tokens: int | None,
        body_bytes: int,
        exchange: Response,
        request_id: str,
        *,
        durable: bool,
        own: bool,
        silence_timeout_s: float,
        turn: Turn | None,
    ) -> None:
        super().__init__(exchange)
        self._turn = turn
        self._lifetime = registry.lifetime
        self._began_after_death = registry.lifetime.is_dead
        self._has_begun = False
        self._clock = asyncio.get_running_loop().time
        # A buffered answer's head comes with its body: until then a late head means that it has not begun.
        self._head_is_answer_until = self._clock() + answer_start_timeout_s(body_bytes)
        if turn is not None:
            self._lifetime.suspects.add(key)
        self.key = key
        self.request_id = request_id
        self.durable = durable
        self.max_tokens = max_tokens
        self.body_bytes = body_bytes
        self.is_own = own
        self.silence_timeout_s = silence_timeout_s
        self.is_paused = False
        self._paused_at = self._resumed_at = self._paused_s = 0.0
        self.is_overtaken = False
        self.handed_off = False
        self._registry = registry

    @property
    def remaining_tokens(self) -> int | None:
        """An upper bound, as a rule: tokens that arrive together count as one, so it errs on the safe side."""
        return None if self.max_tokens is None else max(0, self.max_tokens - self.reads)

    @property
    def context_tokens(self) -> int:
        """About what another engine would have to prefill before it continues."""
        return self.body_bytes // _BYTES_PER_TOKEN + self.reads

    @property
    def time_per_token_s(self) -> float | None:
        """The time per token so far, without the pauses of a client that does not read; None after too few tokens."""
        if self.reads < _SAMPLE_TOKENS:
            return None
        return max(0.0, self.last_read_at - self.first_read_at - self._paused_s) / (self.reads - 1)

    @property
    def silent_from(self) -> float:
        """Since when it is silent, in loop time; the silence of a pause is not the engine's. 0: it was never sent."""
        return self.last_read_at and max(self.last_read_at, self._resumed_at)

    @property
    def tokens(self) -> int:
        """Reads that prove that the engine's core worked for this request: at most one per token."""
        exchange = self.exchange
        tokens = exchange.reads - _OPENING_READS
        return tokens if tokens > 0 and exchange.status == 200 and exchange.is_event_stream else 0

    @property
    def first_token_timeout_s(self) -> float:
        """How long its first token may take, or the next one after a preemption."""
        return first_token_timeout_s(self.body_bytes + self.reads * _BYTES_PER_TOKEN)

    def timeout_s(self, min_timeout_s: float) -> float:
        """Return how long it may be silent.

        A request of another node is judged there; here it is only reported as overtaken.

        min_timeout_s: the least inter-token timeout.
        """
        if self.is_own:
            return self.silence_timeout_s
        return (
            inter_token_timeout_s(self.time_per_token_s, min_timeout_s)
            if self.time_per_token_s is not None
            else self.first_token_timeout_s
        )

    def set_read_timeout(self, seconds: float) -> None:
        """Set how many seconds it may be silent although the engine serves others; the watchdog enforces it."""
        self.silence_timeout_s = seconds

    def pause(self, paused: bool) -> None:
        """Stop reading from the engine, or continue; a paused request is not judged by its silence."""
        if paused and not self.is_paused:
            self._paused_at = self._clock()
        elif self.is_paused and not paused:
            self._resumed_at = self._clock()
            if self.reads:  # the wait for the first token is no part of the pace
                self._paused_s += self._resumed_at - max(self._paused_at, self.first_read_at)
        self.is_paused = paused
        self.exchange.pause(paused)

    def close(self) -> None:
        """End the request: its turn, its place among the active ones, its exchange."""
        self._on_begun()
        self._registry.remove(self)
        self.exchange.close()

    # attribution of a loss until the engine has begun to answer

    async def head(self) -> None:
        """Wait for the response's head. Raises ExchangeLost, with the engine's death as the reason where it died."""
        await self._attributed(self.exchange.head())

    async def read(self) -> bytes:
        """Return what arrived since the last read, b"" at the end. Raises ExchangeLost, as `head`."""
        data = await self._attributed(self.exchange.read())
        if not self._has_begun and data:
            if reports_death(data) and await self._registry.is_dead():
                raise self._death()
            if starts_answer(data):
                self._on_begun()
        return data

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises ExchangeLost, as `head`, also for a 5xx that reports a dead engine."""
        body = await self._attributed(self.exchange.read_all(max_bytes))
        if self.status >= 500 and reports_dead_engine(body) and await self._registry.is_dead():
            raise self._death()
        return body

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Pass data to `sink` as it arrives, until the end. Raises ExchangeLost, as `head`."""
        while not self._has_begun and (data := await self.read()):
            sink(data)
        await self._attributed(self.exchange.pipe(sink))

    async def _attributed(self, waiting: Awaitable[_T]) -> _T:
        try:
            return await waiting
        except ExchangeLost as lost:
            reason = lost.loss.reason
            if self._may_have_begun or (reason is not LossReason.ENGINE_STUCK and not may_indicate_death(reason)):
                raise
            if reason is LossReason.ENGINE_STUCK:
                raise self._death(reason) from lost
            if not await self._registry.has_died(self._lifetime):
                raise
            raise self._death() from lost

    @property
    def _may_have_begun(self) -> bool:
        """Whether the engine may have begun to answer, or never had the request (last_read_at is 0)."""
        waits_for_head = not self.exchange.is_event_stream and self._clock() >= self._head_is_answer_until
        return self._has_begun or waits_for_head or not self.exchange.last_read_at

    def _death(self, reason: LossReason | None = None) -> ExchangeLost:
        """Return the loss by the engine's death.

        An API server answers for seconds after its core has ended: a request that began
        then did not cause the end.

        Args:
            reason: as `EngineLifetime.death`.

        Returns:
            The exception to raise.
        """
        if self._began_after_death:
            return ExchangeLost(LossReason.STARTING)
        return ExchangeLost(self._lifetime.death(self.key, reason))

    def _on_begun(self) -> None:
        self._has_begun = True
        if self._turn is not None:
            self._lifetime.suspects.discard(self.key)
            self._turn.release()


class EngineCalls:
    """All requests at the local engine, by an increasing key."""

    def __init__(self, node: NodeContext, client: Http, engine: Address) -> None:
        self.node = node
        self._client = client
        self._engine = engine
        self._keys = itertools.count(1)
        self._calls: dict[int, EngineCall] = {}
        self._last_time_per_token_s = 0.0
        self._finished_tokens = 0  # of those that are over
        self._finished_token_at = 0.0  # the last of them, in loop time
        self._suspect_lock = asyncio.Lock()
        self._waiting_suspects = 0
        self._engine_end = asyncio.Event()
        self.lifetime = EngineLifetime(0)
        node.metrics.served.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._calls)

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        max_tokens: int | None,
        silence_timeout_s: float,
        *,
        own: bool = False,
        turn: Turn | None = None,
    ) -> EngineCall:
        """Send a request to the engine. It is lost with a Handoff when the node begins to drain meanwhile.

        silence_timeout_s: how long it may be silent although the engine serves others.
        own: whether this node is the request's entry, which counts its active requests per node (`Router.opened`).
        turn: of a suspect; this request ends it.

        Returns:
            The call, which counts as active until it is closed.
        """
        exchange = self._client.request(
            self._engine, method, target, headers=headers, body=body, read_timeout_s=_READ_TIMEOUT_S
        )
        call = EngineCall(
            self,
            next(self._keys),
            max_tokens,
            len(body),
            exchange,
            headers.get("x-request-id", ""),
            durable=headers.get(_DURABILITY) != NOT_DURABLE,
            own=own,
            silence_timeout_s=silence_timeout_s,
            turn=turn,
        )
        self._calls[call.key] = call
        return call

    async def acquire_turn(self) -> Turn:
        """Wait, for a bounded time, until the suspects before this one are answered."""
        has_lock = False
        within_s = _TURN_TIMEOUT_S if self._waiting_suspects < _FEW_SUSPECTS else _BUSY_TURN_TIMEOUT_S
        self._waiting_suspects += 1
        try:
            async with asyncio.timeout(within_s):
                has_lock = await self._suspect_lock.acquire()
        except TimeoutError:
            pass  # runs beside others: an engine's end then identifies it less
        finally:
            self._waiting_suspects -= 1
        return Turn(self._suspect_lock, has_lock=has_lock)

    def engine_started(self) -> None:
        """Record that a new engine process runs: later requests are of its lifetime."""
        self.lifetime = EngineLifetime(self.lifetime.number + 1)

    def engine_ended(self, status: int | None = None, *, had_oom_kill: bool = False) -> None:
        """Record that the engine's process ended; arguments as for `EngineLifetime.end`."""
        self.lifetime.end(status, had_oom_kill=had_oom_kill)
        self._engine_end.set()
        self._engine_end = asyncio.Event()

    async def has_died(self, life: EngineLifetime) -> bool:
        """Return whether an engine has ended, or is just ending: its connections may break before its process ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_TIMEOUT_S):
                while not life.has_ended:
                    await self._engine_end.wait()
        return life.has_ended

    async def is_dead(self) -> bool:
        """Verify an API server's report that its engine has ended: /health fails. The server exits seconds later."""
        lifetime = self.lifetime
        try:
            answer = await self._client.open(
                self._engine, "GET", "/health", headers={}, read_timeout_s=_HEALTH_TIMEOUT_S
            )
        except ExchangeLost:
            is_dead = True
        else:
            is_dead = answer.status != 200
            answer.close()
        if is_dead:
            lifetime.confirm_core_death()
        return is_dead

    def remove(self, call: EngineCall) -> None:
        """Remove a request that is over, and keep the count of its tokens; a second time changes nothing."""
        if self._calls.pop(call.key, None) is None:
            return
        if call.tokens:
            self._finished_tokens += call.tokens
            self._finished_token_at = max(self._finished_token_at, call.exchange.last_read_at)
        if call.is_own:
            self.node.router.request_ended(self.node.instance_id)

    def tokens(self) -> int:
        """Return the tokens received from the engine so far; it never decreases."""
        return self._finished_tokens + sum(call.tokens for call in self._calls.values())

    def has_token_since(self, at: float) -> bool:
        """Return whether a token of a stream arrived since that loop time.

        A stream that is over counts by when its last token arrived: that it ends, because its client is gone or its
        entry gave it up, is no work of the engine.
        """
        active = any(call.exchange.last_read_at > at and call.tokens for call in self._calls.values())
        return active or self._finished_token_at > at

    def silent_since(self, at: float) -> list[EngineCall]:
        """Return the requests that were sent, are not paused, and received nothing since that loop time."""
        return [call for call in self._calls.values() if 0 < call.silent_from <= at and not call.is_paused]

    def active(self) -> list[EngineCall]:
        """Return the active requests, oldest first."""
        return list(self._calls.values())

    def abort_all(self, reason: LossReason) -> None:
        """Lose every request because the engine does not work and is about to be ended: each continues elsewhere."""
        self.lifetime.end()
        for call in self.active():
            call.exchange.abort(reason)

    def min_time_per_token_s(self) -> float:
        """Return the least time per token of all streams, about one step; 0 where unknown."""
        return min((pace for call in self._calls.values() if (pace := call.time_per_token_s) is not None), default=0.0)

    def time_per_token_s(self) -> float:
        """Return the mean time per token of the active streams, else the last one; 0 where unknown."""
        paces = [pace for call in self._calls.values() if (pace := call.time_per_token_s) is not None]
        if paces:
            self._last_time_per_token_s = sum(paces) / len(paces)
        return self._last_time_per_token_s

    def streams(self) -> list[ServedStream]:
        """Return the active streams that were not handed off, as the drain planner expects them."""
        time_per_token_s = self.time_per_token_s()
        return [
            ServedStream(call.key, call.remaining_tokens, time_per_token_s, call.context_tokens)
            for call in self._calls.values()
            if not call.handed_off
        ]

    def hand_off(self, key: int, to: str | None) -> EngineCall | None:
        """Hand one request back to its entry.

        to: the instance that has room for it.

        Returns:
            The request; None where it is not here, or was handed off before.
        """
        call = self._calls.get(key)
        if call is None or call.handed_off:
            return None
        call.handed_off = True
        call.exchange.abort(Handoff(to))
        return call

    def hand_off_all(self) -> list[EngineCall]:
        """Hand every request back."""
        return [call for key in list(self._calls) if (call := self.hand_off(key, None)) is not None]


class WatchedGroup:
    """The EngineGroup port over another one; it reports the engine's starts and ends to EngineCalls.

    on_start: called after each start.
    """

    def __init__(self, group: EngineGroup, calls: EngineCalls, on_start: Callable[[], None]) -> None:
        self._group = group
        self._calls = calls
        self._on_start = on_start

    async def start(self) -> None:
        """Start the engine, and record that. Raises OSError where its command cannot be run."""
        await self._group.start()
        self._calls.engine_started()
        self._on_start()

    async def wait(self) -> int:
        """Wait until the engine's process ends, and record that; return its exit status (negative: the signal)."""
        status = await self._group.wait()
        self._calls.engine_ended(status, had_oom_kill=self._group.had_oom_kill())
        return status

    def last_output(self) -> str:
        """Return the end of what the engine wrote; complete after `stop`."""
        return self._group.last_output()

    def had_oom_kill(self) -> bool:
        """Return whether the kernel has ended a process for lack of memory since the start."""
        return self._group.had_oom_kill()

    def is_suspended(self) -> bool:
        """Return whether a process of the group is stopped by a signal."""
        return self._group.is_suspended()

    def note_shared_memory(self) -> None:
        """Record the shared memory that the engine has mapped now."""
        self._group.note_shared_memory()

    async def stop(self, grace_s: float) -> None:
        """Stop the engine, with SIGKILL after `grace_s` seconds, and record its end."""
        await self._group.stop(grace_s)
        self._calls.engine_ended()
