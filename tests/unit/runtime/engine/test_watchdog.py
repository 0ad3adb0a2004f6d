"""The watch of a node's engine, on virtual time, with an engine that a test plays: the Http port itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from node_agent.contract.names import SIGNS_HEADER
from node_agent.core.common.address import Address
from node_agent.core.continuation.timeouts import FIRST_TOKEN_S, MIN_INTER_TOKEN_S, keepalive_interval_s
from node_agent.core.engine.liveness import STUCK_S
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.ports import ExchangeLost
from node_agent.runtime.engine.active_requests import EngineCall, EngineCalls
from node_agent.runtime.engine.keepalive import KEEPALIVE, OVERTAKEN, KeepAlives
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.runtime.engine.watchdog import EngineWatchdog
from node_agent.testing.fakes import MemoryEngineSteps, MemoryRequest
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

    def generate(self, served: EngineCall, every_s: float, tokens: int = 100_000) -> asyncio.Task[None]:
        """A token from the engine every so often, while its core does not hang."""

        async def run() -> None:
            exchange: Any = served.exchange
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


def test_a_core_that_hangs_is_detected_and_all_its_requests_are_lost_at_once() -> None:
    async def story(stage: Stage) -> None:
        calls = [stage.request(), stage.request(900.0), stage.request(own=False)]
        for each in calls:
            stage.generate(each, 0.05)
        await stage.runs(60.0)
        stage.engine.step_s = None
        took, why = await stage.stuck()
        assert took <= WITHIN_S
        assert "a probe is not answered" in why
        lost: list[Any] = [each.exchange for each in calls]
        assert [exchange.lost for exchange in lost] == [LossReason.ENGINE_STUCK] * 3

    run_scenario(story)


def test_streams_that_end_during_a_hang_are_no_work_of_the_engine() -> None:
    """Clients give up one after another. In a chaos run each of them hid the hang for the whole bound again."""

    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(6)]
        for each in calls:
            stage.generate(each, 0.05)
        await stage.runs(60.0)
        stage.engine.step_s = None

        async def give_up() -> None:
            for each in calls[:5]:
                await asyncio.sleep(STUCK_S / 3)
                each.close()

        stage.tasks.append(asyncio.create_task(give_up()))
        took, _ = await stage.stuck()
        assert took <= WITHIN_S

    run_scenario(story)


def test_an_engine_that_is_suspended_from_outside_is_restarted_and_suspects_nobody() -> None:
    async def story(stage: Stage) -> None:
        call: Any = stage.request()
        stage.generate(call, 0.05)
        await stage.runs(60.0)
        stage.engine.step_s, stage.engine.suspended = None, True
        _, why = await stage.stuck()
        assert why.endswith("a process of it is stopped by a signal")
        assert call.exchange.lost is LossReason.ENGINE_KILLED

    run_scenario(story)


def test_an_idle_engine_that_hangs_is_detected_before_a_request_arrives() -> None:
    async def story(stage: Stage) -> None:
        await stage.runs(600.0)
        stage.engine.step_s = None
        took, _ = await stage.stuck()
        assert took <= WITHIN_S
        assert stage.engine.most_at_once == 1

    run_scenario(story)


def test_an_engine_frozen_with_its_api_server_is_detected_sooner() -> None:
    async def story(stage: Stage) -> None:
        stage.generate(stage.request(), 0.05)
        await stage.runs(60.0)
        stage.engine.step_s, stage.engine.deaf = None, True
        took, _ = await stage.stuck()
        assert took <= STUCK_S / 2 + 2.0

    run_scenario(story)


@pytest.mark.parametrize("seconds", [2.5, 5.0, 9.0])
def test_a_model_of_seconds_a_token_loses_nothing(seconds: float) -> None:
    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(3)]
        made = [stage.generate(each, seconds, tokens=40) for each in calls]
        await stage.runs(seconds * 41)
        assert all(task.done() for task in made)
        assert [each.reads for each in calls] == [40] * 3

    run_scenario(story, step_s=2 * seconds)


def test_streams_without_kv_blocks_are_silent_and_not_lost() -> None:
    """vLLM's behaviour under KV preemption: some streams wait for fifteen seconds, others continue."""

    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(6)]
        for each in calls:
            stage.generate(each, 0.05, tokens=100 if each.key % 2 else 100_000)
        await stage.runs(4.0)
        for _ in range(20):  # one waits at any time, until the others are through
            stage.engine.preemptions += 1
            stage.engine.waiting = 3
            await stage.runs(1.0)
        stage.engine.waiting = 0
        await stage.runs(FIRST_TOKEN_S - 5.0)  # and is then read again
        assert [each.exchange.lost for each in calls] == [None] * 6  # type: ignore[attr-defined] # a test's exchange

    run_scenario(story)


def test_a_long_prefill_beside_other_streams_delays_them_and_loses_none() -> None:
    async def story(stage: Stage) -> None:
        calls = [stage.request() for _ in range(3)]
        for each in calls:
            stage.generate(each, 0.05)
        await stage.runs(10.0)
        stage.engine.step_s = None
        await stage.runs(8.0)
        stage.engine.step_s = 0.02
        await stage.runs(30.0)
        assert [each.exchange.lost for each in calls] == [None] * 3  # type: ignore[attr-defined]

    run_scenario(story)


def test_a_stream_that_hangs_in_a_working_engine_is_lost_alone() -> None:
    """As one does whose engine had its drain's time: its socket stays open."""

    async def story(stage: Stage) -> None:
        hangs, well, of_peer, whole = stage.request(), stage.request(), stage.request(own=False), stage.request(900.0)
        stage.generate(well, 0.05)
        for each in (hangs, of_peer, whole):
            stage.generate(each, 0.05, tokens=20)
        await stage.runs(1.1)
        lost: list[Any] = [each.exchange for each in (hangs, well, of_peer, whole)]
        await stage.runs(MIN_INTER_TOKEN_S - 0.3)
        assert [exchange.lost for exchange in lost] == [None] * 4
        await stage.runs(3.0)
        assert [exchange.lost for exchange in lost] == [LossReason.SILENCE, None, None, None]
        assert [of_peer.is_overtaken, whole.is_overtaken] == [True, False], "its entry judges what is a peer's"

    run_scenario(story)


def test_without_metrics_a_silence_may_last_as_long_as_a_first_token() -> None:
    async def story(stage: Stage) -> None:
        hangs, well = stage.request(), stage.request()
        stage.generate(well, 0.05)
        stage.generate(hangs, 0.05, tokens=20)
        lost: Any = hangs.exchange
        await stage.runs(FIRST_TOKEN_S)
        assert lost.lost is None
        await stage.runs(5.0)
        assert lost.lost is LossReason.SILENCE

    run_scenario(story, shows=False)


def test_a_client_that_does_not_read_is_no_silence_of_the_engine() -> None:
    async def story(stage: Stage) -> None:
        calls = stage.request()
        await stage.generate(calls, 0.05, tokens=20)
        calls.pause(True)
        await stage.runs(600.0)
        assert calls.exchange.lost is None  # type: ignore[attr-defined]

    run_scenario(story)


def test_the_pauses_of_a_slow_reader_are_not_the_pace_of_the_engine() -> None:
    """Else one reader that stalls for minutes makes the bound for a hang as long, or loses its stream as it resumes."""

    async def story(stage: Stage) -> None:
        call = stage.request()
        for _ in range(3):
            await stage.generate(call, 0.05, tokens=5)
            call.pause(True)
            await stage.runs(120.0)
            call.pause(False)
        await stage.generate(call, 0.05, tokens=5)
        assert call.reads == 20, "it was lost as it resumed"
        assert call.time_per_token_s == pytest.approx(0.05, abs=0.02)
        stage.engine.step_s = None
        took, _ = await stage.stuck()
        assert took <= WITHIN_S

    run_scenario(story)


def test_a_stream_that_was_paused_before_its_first_token_is_silent_only_from_its_resumption() -> None:
    async def story(stage: Stage) -> None:
        call, other = stage.request(), stage.request()
        stage.generate(other, 0.05)
        call.pause(True)
        await stage.runs(600.0)
        call.pause(False)
        await stage.runs(2.0)
        assert call.exchange.lost is None  # type: ignore[attr-defined]

    run_scenario(story)


def test_an_engine_stuck_before_its_first_token_gives_the_next_one_more_time() -> None:
    """One that compiles at the first request that needs it would otherwise be restarted for ever."""

    async def story(stage: Stage) -> None:
        took: list[float] = []
        for _ in range(3):
            stage.request()
            stage.engine.step_s = None
            took.append((await stage.stuck(within_s=90.0))[0])
            stage.watching = asyncio.create_task(stage.watch.until_stuck(0.02))
        assert took[1] >= 1.5 * took[0]
        assert took[2] >= 1.5 * took[1]
        stage.engine.step_s = 0.02
        stage.generate(stage.request(), 0.05)
        await stage.runs(5.0)
        stage.engine.step_s = None
        await stage.stuck(within_s=90.0)
        stage.watching = asyncio.create_task(stage.watch.until_stuck(0.02))
        assert (await stage.stuck())[0] <= WITHIN_S, "it has worked in between"

    run_scenario(story)


def test_steps_that_the_plugin_counts_are_progress_without_other_signs() -> None:
    """A long prompt in pieces, behind an API server that answers nothing meanwhile."""

    async def story(stage: Stage) -> None:
        stage.generate(stage.request(), 0.05)
        await stage.runs(10.0)
        stage.engine.step_s, stage.engine.deaf = None, True
        for step in range(100):
            stage.steps.steps = step
            await stage.runs(1.0)
        await stage.stuck()
        assert stage.steps.steps is None, "the next engine counts anew"

    run_scenario(story)


def test_keepalives_are_sent_between_events_while_the_engine_is_silent() -> None:
    async def run() -> None:
        signs, request, engine = KeepAlives(keepalive_interval_s(MIN_INTER_TOKEN_S)), MemoryRequest(), Engine()
        node, http = make_node(0), engine
        any_http: Any = http
        served = EngineCalls(node, any_http, ADDRESS)
        showing = asyncio.create_task(signs.run())
        with signs.track(request) as shown:
            await asyncio.sleep(1.1)  # a context is fetched
            calls = served.request("POST", "/", {}, b"", None, 1.0)
            shown.attach(calls)
            await asyncio.sleep(1.1)  # the engine reads the prompt
            assert request.accepted[0] == {SIGNS_HEADER: b"1"}
            assert len(request.accepted) >= 4
            request.begin(200, b"text/event-stream")
            shown.on_begun()
            shown.write(b"data: 1\n\n")
            await asyncio.sleep(1.1)
            calls.is_overtaken = True
            await asyncio.sleep(1.0)
            assert request.sent[0] == b"data: 1\n\n"
            assert request.sent[1:] == [KEEPALIVE] * 2 + [OVERTAKEN] * 2
            shown.write(b"data: ha")
            await asyncio.sleep(2.0)
            assert request.sent[-1] == b"data: ha", "nothing goes into an event"
            shown.write(b"lf\n\n")
            calls.is_paused = True
            await asyncio.sleep(2.0)
            assert request.sent[-1] == b"lf\n\n", "nor to a peer that takes nothing"
        before = list(request.sent)
        await asyncio.sleep(5.0)
        assert request.sent == before
        showing.cancel()

    run_virtual(run, sockets=False)
