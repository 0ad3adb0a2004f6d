"""Test how suspects are sent to an engine one at a time."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.runtime.engine import suspect_turns
from node_agent.runtime.engine.suspect_turns import SuspectTurns
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.engine.engine_stage import Stage, play


def test_turns_are_taken_one_after_another_and_may_be_released_twice() -> None:
    async def run() -> None:
        turns, order = SuspectTurns(), list[int]()
        clock = asyncio.get_running_loop().time
        began = clock()

        async def take(number: int) -> None:
            turn = await turns.acquire()
            order.append(number)
            await asyncio.sleep(1.0)
            turn.release()
            turn.release()

        await asyncio.gather(*(take(number) for number in range(5)))
        assert order == list(range(5))
        assert clock() - began == pytest.approx(5.0)

    run_virtual(run, sockets=False)


def test_of_many_suspects_those_that_come_late_wait_for_a_second_only() -> None:
    async def run() -> None:
        clock = asyncio.get_running_loop().time
        turns, began, waited = SuspectTurns(), clock(), list[float]()
        await turns.acquire()  # never answered

        async def take() -> None:
            await turns.acquire()
            waited.append(round(clock() - began, 3))

        await asyncio.gather(*(take() for _ in range(10)))
        assert sorted(waited) == [1.0] * 2 + [10.0] * 8

    run_virtual(run, sockets=False)


def test_a_suspect_that_stops_waiting_takes_no_turn_from_the_next() -> None:
    async def run() -> None:
        turns = SuspectTurns()
        first = await turns.acquire()
        gone, next_one = (asyncio.ensure_future(turns.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        first.release()
        (await next_one).release()

    run_virtual(run, sockets=False)


def test_a_suspect_is_sent_only_after_the_one_before_has_an_answer() -> None:
    async def story(stage: Stage) -> None:
        first, exchange = stage.request(await stage.served.turns.acquire())
        second = asyncio.ensure_future(stage.served.turns.acquire())
        await asyncio.sleep(0)
        assert not second.done()
        exchange.feed.put_nowait(b"")
        await first.head()
        exchange.feed.put_nowait(b"data: 1\n\n")
        await first.read()
        await second
        third = asyncio.ensure_future(stage.served.turns.acquire())
        await asyncio.sleep(0)
        assert not third.done()
        other, _ = stage.request(second.result())
        other.close()
        (await third).release()
        first.close()

    play(story)


def test_a_suspect_waits_a_bounded_time_and_is_then_not_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspect_turns, "_TURN_TIMEOUT_S", 0.01)

    async def story(stage: Stage) -> None:
        one, first = stage.request(await stage.served.turns.acquire())
        other, second = stage.request(await stage.served.turns.acquire())
        innocent, third = stage.request()
        stage.lifetimes.ended(134)
        for each in (first, second, third):
            each.feed.put_nowait(LossReason.RESET)
        losses = [await stage.loss(each.head()) for each in (one, other, innocent)]
        assert losses == [EngineDeath(LossReason.ENGINE_DIED, "1", alone=False)] * 3
        one.close()
        other.close()
        (await stage.served.turns.acquire()).release()

    play(story)
