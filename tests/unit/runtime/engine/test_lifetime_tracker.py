"""Test what a node finds out of its engine's starts and ends."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.core.failure.loss import LossReason
from node_agent.runtime.engine import lifetime_tracker
from tests.unit.runtime.engine.engine_stage import Stage, play


def test_each_start_is_another_lifetime_and_is_counted() -> None:
    async def story(stage: Stage) -> None:
        first = stage.lifetimes.current
        stage.lifetimes.ended(134)
        stage.lifetimes.started()
        assert (first.number, first.has_ended) == (1, True)
        assert (stage.lifetimes.current.number, stage.lifetimes.current.has_ended) == (2, False)

    play(story)


def test_an_end_soon_after_a_connection_broke_is_waited_for() -> None:
    async def story(stage: Stage) -> None:
        lifetime = stage.lifetimes.current
        waiting = asyncio.ensure_future(stage.lifetimes.has_died(lifetime))
        await asyncio.sleep(0)
        assert not waiting.done()
        stage.lifetimes.ended(134)
        stage.lifetimes.started()
        assert await waiting
        assert await stage.lifetimes.has_died(lifetime), "it stays dead, whatever runs now"

    play(story)


def test_an_engine_that_runs_on_has_not_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime_tracker, "_DEATH_TIMEOUT_S", 0.01)

    async def story(stage: Stage) -> None:
        assert not await stage.lifetimes.has_died(stage.lifetimes.current)

    play(story)


@pytest.mark.parametrize(("health", "is_dead"), [(503, True), (None, True), (200, False)])
def test_a_report_of_a_dead_core_is_verified_and_the_end_after_it_is_its_own(health: int | None, is_dead: bool) -> None:
    async def story(stage: Stage) -> None:
        stage.client.health = health
        lifetime = stage.lifetimes.current
        assert await stage.lifetimes.is_core_dead() is is_dead
        assert lifetime.is_dead is is_dead
        stage.lifetimes.ended(0)  # as vLLM exits after a SIGTERM, too
        assert lifetime.death(1).reason is (LossReason.ENGINE_DIED if is_dead else LossReason.ENGINE_KILLED)

    play(story)
