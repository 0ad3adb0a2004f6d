"""Requests at an engine that dies: the loss that each caller gets."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from node_agent.core.engine import pending_answer
from node_agent.core.failure.attribution import classify_loss
from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.core.failure.verdict import Origin
from node_agent.runtime.engine import lifetime_tracker
from tests.unit.runtime.engine.engine_stage import Stage, play

DEAD = orjson.dumps({"error": {"message": "EngineCore encountered an issue. See stack trace (above)."}})


@pytest.mark.parametrize("why", [LossReason.RESET, LossReason.EOF, LossReason.BROKEN, LossReason.REFUSED])
def test_a_request_that_waits_when_the_engine_dies_gets_the_engines_death(why: LossReason) -> None:
    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        waiting = asyncio.ensure_future(stage.loss(one.head()))
        exchange.feed.put_nowait(why)  # a connection breaks before its process is gone
        await asyncio.sleep(0)
        stage.lifetimes.ended(134)
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
        stage.lifetimes.ended(134)
        loss = await stage.loss(one.pipe(got.append))
        assert got == parts
        assert isinstance(loss, EngineDeath) is is_blamed

    play(story)


def test_a_broken_connection_to_a_living_engine_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime_tracker, "_DEATH_TIMEOUT_S", 0.01)

    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        exchange.feed.put_nowait(LossReason.RESET)
        assert await stage.loss(one.head()) is LossReason.RESET

    play(story)


def test_a_request_in_one_piece_that_runs_for_long_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_answer, "answer_start_timeout_s", lambda body_bytes: 0.0)

    async def story(stage: Stage) -> None:
        one, whole = stage.request()
        other, stream = stage.request()
        stream.is_event_stream = True
        stage.lifetimes.ended(134)
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
        stage.lifetimes.ended(134)
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


def test_a_restarted_engine_is_another_lifetime_and_a_stopped_one_has_ended() -> None:
    async def story(stage: Stage) -> None:
        one, exchange = stage.request()
        stage.lifetimes.ended()
        stage.lifetimes.started()
        later, _ = stage.request()
        exchange.feed.put_nowait(LossReason.RESET)
        assert await stage.loss(one.head()) == EngineDeath(LossReason.ENGINE_KILLED, "1", alone=True)
        assert stage.lifetimes.current.number == 2
        assert not stage.lifetimes.current.has_ended
        later.close()

    play(story)
