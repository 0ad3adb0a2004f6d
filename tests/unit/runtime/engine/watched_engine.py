"""An engine that a test plays on virtual time, the Http port itself, and the watchdog over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from node_agent.core.common.address import Address
from node_agent.core.continuation.timeouts import MIN_INTER_TOKEN_S
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.ports import ExchangeLost
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.engine_call import EngineCall
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.runtime.engine.watchdog import EngineWatchdog
from node_agent.testing.fakes import MemoryEngineSteps
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import make_node

ADDRESS = Address("127.0.0.1", 8002)
WITHIN_S = 15.0


class Exchange:
    """A request at the engine: a stream whose tokens a test sends, /metrics or a probe, which the core answers."""

    status = 200
    headers: Mapping[bytes, bytes] = {}  # never changed

    def __init__(self, engine: Engine, *, stream: bool) -> None:
        self._engine = engine
        self.is_event_stream = stream
        self.first_read_at = 0.0
        self.last_read_at = engine.now
        self.reads = 0
        self.lost: Loss | None = None
        self.paused = False

    def send(self) -> None:
        """A token comes."""
        if self.lost is None:
            self.last_read_at = self._engine.now
            self.first_read_at = self.first_read_at or self.last_read_at
            self.reads += 1
            self._engine.generated += 1

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def abort(self, loss: Loss) -> None:
        self.lost = self.lost or loss

    async def read_all(self, max_bytes: int) -> bytes:
        return self._engine.metrics()

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Engine:
    """step_s: of its core, None for one that hangs; deaf: its API server answers nothing."""

    step_s: float | None = 0.02
    deaf: bool = False
    suspended: bool = False
    waiting: int = 0
    preemptions: int = 0
    generated: int = 0
    shows: bool = True
    probes: int = 0
    at_once: int = 0
    most_at_once: int = 0
    streams: list[Exchange] = field(default_factory=list)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def metrics(self) -> bytes:
        figures = {
            "num_requests_running": len(self.streams) - self.waiting,
            "num_requests_waiting": self.waiting,
            "kv_cache_usage_perc": 0.5,
            "num_preemptions_total": self.preemptions,
            "generation_tokens_total": self.generated,
        }
        return (
            b"".join(b"vllm:%b %d\n" % (name.encode(), value) for name, value in figures.items()) if self.shows else b""
        )

    def request(self, *_: object, **__: object) -> Exchange:
        self.streams.append(Exchange(self, stream=True))
        return self.streams[-1]

    async def open(self, address: Address, method: str, target: str, **more: Any) -> Exchange:
        if target == "/v1/completions":
            await self._probed(more["read_timeout_s"])
        if self.deaf:
            await asyncio.sleep(more["read_timeout_s"])
            raise ExchangeLost(LossReason.SILENCE)
        return Exchange(self, stream=False)

    async def _probed(self, silence_s: float) -> None:
        self.probes += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            began = self.now
            while self.step_s is None or self.now - began < self.step_s:
                await asyncio.sleep(0.01)
                if self.now - began > silence_s:
                    raise ExchangeLost(LossReason.SILENCE)
            self.generated += 1
        finally:
            self.at_once -= 1


@dataclass
class Stage:
    engine: Engine
    served: EngineCalls
    watch: EngineWatchdog
    steps: MemoryEngineSteps
    watching: asyncio.Task[str]
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def request(self, silence_s: float = MIN_INTER_TOKEN_S, *, own: bool = True) -> EngineCall:
        return self.served.request("POST", "/v1/completions", {}, b"x", None, silence_s, own=own)

    def exchange(self, call: EngineCall) -> Exchange:
        """Return the engine's side of a request."""
        return self.engine.streams[call.key - 1]

    def lost(self, *calls: EngineCall) -> list[Loss | None]:
        """Return why each was lost, None where it is not."""
        return [self.exchange(call).lost for call in calls]

    def generate(self, served: EngineCall, every_s: float, tokens: int = 100_000) -> asyncio.Task[None]:
        """A token from the engine every so often, while its core does not hang."""

        async def run() -> None:
            exchange = self.exchange(served)
            for _ in range(tokens):
                await asyncio.sleep(every_s)
                if self.engine.step_s is not None:
                    exchange.send()

        self.tasks.append(asyncio.create_task(run()))
        return self.tasks[-1]

    async def runs(self, seconds: float) -> None:
        """So long, and the engine is not found stuck."""
        done, _ = await asyncio.wait({self.watching}, timeout=seconds)
        assert not done, self.watching.result()

    async def stuck(self, within_s: float = WITHIN_S) -> tuple[float, str]:
        began = self.engine.now
        async with asyncio.timeout(within_s):
            why = await self.watching
        return self.engine.now - began, why


def run_scenario(story: Callable[[Stage], Coroutine[Any, Any, None]], **engine: Any) -> None:
    async def run() -> None:
        node, played = make_node(0), Engine(**engine)
        http: Any = played
        served = EngineCalls(node, http, ADDRESS)
        load = LoadMonitor(node, served, http, ADDRESS, lambda: 0.0)
        watch = EngineWatchdog(
            node, served, load, http, ADDRESS, steps := MemoryEngineSteps(), lambda: played.suspended
        )
        loading = asyncio.create_task(load.run())
        stage = Stage(played, served, watch, steps, asyncio.create_task(watch.until_stuck(played.step_s or 0.0)))
        try:
            await story(stage)
        finally:
            for task in (loading, stage.watching, *stage.tasks):
                task.cancel()

    run_virtual(run, sockets=False)
