"""Requests at an engine that dies: the loss that each caller gets, and how suspects are sent one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from node_agent.core.common.address import Address
from node_agent.core.failure.attribution import Origin, classify_loss
from node_agent.core.failure.loss import EngineDeath, Loss, LossReason
from node_agent.ports import ExchangeLost
from node_agent.runtime.engine import active_requests as module
from node_agent.runtime.engine.active_requests import EngineCalls, WatchedGroup
from tests.unit.runtime.a_node import make_node

DEAD = orjson.dumps({"error": {"message": "EngineCore encountered an issue. See stack trace (above)."}})


class Exchange:
    """A response whose bytes and end a test gives. last_read_at: 0 while nothing was sent."""

    is_event_stream = False
    headers: dict[bytes, bytes] = {}  # noqa: RUF012 # never changed
    status, reads, first_read_at, last_read_at = 200, 0, 0.0, 1.0

    def __init__(self) -> None:
        self.feed: asyncio.Queue[bytes | Loss] = asyncio.Queue()

    async def head(self) -> None:
        self._read(await self.feed.get())

    async def read(self) -> bytes:
        return self._read(await self.feed.get())

    async def read_all(self, max_bytes: int) -> bytes:
        return await self.read()

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        while data := await self.read():
            sink(data)

    def _read(self, item: bytes | Loss) -> bytes:
        if not isinstance(item, bytes):
            raise ExchangeLost(item)
        return item

    def abort(self, loss: Loss) -> None:
        self.feed.put_nowait(loss)

    def close(self) -> None:
        """Nothing to close."""


class Client:
    """An HTTP client of the engine. health: the status of its /health, None where nothing answers."""

    def __init__(self) -> None:
        self.health: int | None = 200
        self.exchanges: list[Exchange] = []

    def request(self, *_: object, **__: object) -> Exchange:
        self.exchanges.append(Exchange())
        return self.exchanges[-1]

    async def open(self, *_: object, **__: object) -> Exchange:
        if self.health is None:
            raise ExchangeLost(LossReason.REFUSED)
        exchange = Exchange()
        exchange.status = self.health
        return exchange


class Group:
    """An engine's process, whose end a test gives."""

    def __init__(self) -> None:
        self.oom = False
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await asyncio.shield(self.ended)

    def last_output(self) -> str:
        return ""

    def had_oom_kill(self) -> bool:
        return self.oom

    def is_suspended(self) -> bool:
        return False

    def note_shared_memory(self) -> None:
        """Nobody has any."""

    async def stop(self, grace_s: float) -> None:
        if not self.ended.done():
            self.ended.set_result(-9)


class Stage:
    def __init__(self) -> None:
        self.client = Client()
        client: Any = self.client
        self.served = EngineCalls(make_node(0), client, Address("h", 1))
        self.inner = Group()
        self.group = WatchedGroup(self.inner, self.served, lambda: None)
        self.watching: asyncio.Task[int] | None = None

    async def start(self) -> None:
        await self.group.start()
        self.watching = asyncio.ensure_future(self.group.wait())

    def request(self, turn: module.Turn | None = None) -> tuple[module.EngineCall, Exchange]:
        one = self.served.request("POST", "/v1/completions", {}, b"{}", None, 9.0, turn=turn)
        return one, self.client.exchanges[-1]

    async def loss(self, waiting: Awaitable[object]) -> Loss:
        with pytest.raises(ExchangeLost) as lost:
            await waiting
        return lost.value.loss


def play(story: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Stage()
        await stage.start()
        async with asyncio.timeout(10):
            await story(stage)
        if stage.watching is not None:
            stage.watching.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("why", [LossReason.RESET, LossReason.EOF, LossReason.BROKEN, LossReason.REFUSED])
def test_a_request_that_waits_when_the_engine_dies_gets_the_engines_death(why: LossReason) -> None:
    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        waiting = asyncio.ensure_future(stage.loss(one.head()))
        exchange.feed.put_nowait(why)  # a connection breaks before its process is gone
        await asyncio.sleep(0)
        stage.inner.ended.set_result(134)
        assert await waiting == EngineDeath(LossReason.ENGINE_DIED, "1", alone=True)

    play(story)


@pytest.mark.parametrize(
    ("parts", "is_blamed"),
    [([], True), ([b"event: response.created\ndata: {}\n\n"], True), ([b"data: 1\n\n"], False)],
)
def test_a_head_alone_is_no_answer_yet_and_the_first_bytes_are(parts: list[bytes], is_blamed: bool) -> None:
    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        got: list[bytes] = []
        exchange.feed.put_nowait(b"")
        await one.head()
        for part in parts:
            exchange.feed.put_nowait(part)
        exchange.feed.put_nowait(LossReason.RESET)
        stage.inner.ended.set_result(134)
        loss = await stage.loss(one.pipe(got.append))
        assert got == parts
        assert isinstance(loss, EngineDeath) is is_blamed

    play(story)


def test_a_broken_connection_to_a_living_engine_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEATH_TIMEOUT_S", 0.01)

    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        exchange.feed.put_nowait(LossReason.RESET)
        assert await stage.loss(one.head()) is LossReason.RESET

    play(story)


def test_a_request_in_one_piece_that_runs_for_long_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "answer_start_timeout_s", lambda body_bytes: 0.0)

    async def story(stage: Stage) -> None:
        one, whole = stage.request()
        other, stream = stage.request()
        stream.is_event_stream = True
        stage.inner.ended.set_result(134)
        for each in (whole, stream):
            each.feed.put_nowait(LossReason.RESET)
        assert await stage.loss(one.head()) is LossReason.RESET
        assert await stage.loss(other.head()) == EngineDeath(LossReason.ENGINE_DIED, "1", alone=True)

    play(story)


def test_ending_a_stuck_engine_is_a_death_for_requests_without_an_answer() -> None:
    async def story(stage: Stage) -> None:
        one, _ = stage.request()
        other, exchange = stage.request()
        exchange.feed.put_nowait(b"")
        await other.head()
        exchange.feed.put_nowait(b"data: 1\n\n")
        await other.read()
        stage.served.abort_all(LossReason.ENGINE_STUCK)
        assert await stage.loss(one.head()) == EngineDeath(LossReason.ENGINE_STUCK, "1", alone=True)
        assert await stage.loss(other.read()) is LossReason.ENGINE_STUCK

    play(story)


def test_a_request_that_was_never_sent_is_not_blamed_for_a_death() -> None:
    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        exchange.last_read_at = 0.0
        stage.inner.ended.set_result(134)
        exchange.feed.put_nowait(LossReason.REFUSED)
        assert await stage.loss(one.head()) is LossReason.REFUSED

    play(story)


@pytest.mark.parametrize(("health", "is_dead"), [(503, True), (None, True), (200, False)])
@pytest.mark.parametrize("streams", [True, False])
def test_a_dead_engine_reported_by_the_api_server_counts_if_its_health_agrees(
    health: int | None, is_dead: bool, streams: bool
) -> None:
    async def story(stage: Stage) -> None:
        stage.client.health = health
        one, exchange = stage.request()
        exchange.feed.put_nowait(b"")
        await one.head()
        exchange.status = 200 if streams else 500
        exchange.feed.put_nowait(b"data: %b\n\n" % DEAD if streams else DEAD)
        exchange.feed.put_nowait(b"")
        waiting = one.pipe(lambda data: None) if streams else one.read_all(99)
        if is_dead:
            assert await stage.loss(waiting) == EngineDeath(LossReason.ENGINE_DIED, "1", alone=True)
        else:
            await waiting

    play(story)


def test_a_request_that_reaches_a_dead_engine_is_not_blamed_for_its_death() -> None:
    """An API server answers for seconds after its core has ended."""

    async def story(stage: Stage) -> None:
        stage.client.health = 503
        for is_first in (True, False):
            one, exchange = stage.request()
            exchange.status = 500
            exchange.feed.put_nowait(DEAD)
            loss = await stage.loss(one.read_all(99))
            assert isinstance(loss, EngineDeath) is is_first
            assert is_first or classify_loss(Origin.ENGINE, loss.reason).code == "not-serving"

    play(story)


def test_a_suspect_is_sent_only_after_the_one_before_has_an_answer() -> None:
    async def story(stage: Stage) -> None:
        first, exchange = stage.request(await stage.served.acquire_turn())
        second = asyncio.ensure_future(stage.served.acquire_turn())
        await asyncio.sleep(0)
        assert not second.done()
        exchange.feed.put_nowait(b"")
        await first.head()
        exchange.feed.put_nowait(b"data: 1\n\n")
        await first.read()
        await second
        third = asyncio.ensure_future(stage.served.acquire_turn())
        await asyncio.sleep(0)
        assert not third.done()
        other, _ = stage.request(second.result())
        other.close()
        (await third).release()
        first.close()

    play(story)


def test_a_suspect_waits_a_bounded_time_and_is_then_not_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TURN_TIMEOUT_S", 0.01)

    async def story(stage: Stage) -> None:
        one, first = stage.request(await stage.served.acquire_turn())
        other, second = stage.request(await stage.served.acquire_turn())
        innocent, third = stage.request()
        stage.inner.ended.set_result(134)
        for each in (first, second, third):
            each.feed.put_nowait(LossReason.RESET)
        losses = [await stage.loss(each.head()) for each in (one, other, innocent)]
        assert losses == [EngineDeath(LossReason.ENGINE_DIED, "1", alone=False)] * 3
        one.close()
        other.close()
        (await stage.served.acquire_turn()).release()

    play(story)


def test_a_restarted_engine_is_another_lifetime_and_a_stopped_one_has_ended() -> None:
    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        await stage.group.stop(0.0)
        await stage.start()
        later, _ = stage.request()
        exchange.feed.put_nowait(LossReason.RESET)
        assert await stage.loss(one.head()) == EngineDeath(LossReason.ENGINE_KILLED, "1", alone=True)
        assert stage.served.lifetime.number == 2
        assert not stage.served.lifetime.has_ended
        later.close()

    play(story)
