"""A loop that outlives its bugs: counted, logged within bounds, started again with backoff, ended on request."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.common.supervised_task import Unexpected, keep_running
from tests.borders.virtual_time import run_virtual


def counted(metrics: Metrics, where: str) -> float:
    return float(metrics.unexpected.labels(where)._value.get())


def test_a_loop_that_raises_is_restarted_with_backoff_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, begun = Metrics(), list[float]()

    async def story() -> None:
        clock = asyncio.get_running_loop().time

        async def loop() -> None:
            begun.append(clock())
            raise ZeroDivisionError

        running = asyncio.create_task(keep_running("gossip", loop, Unexpected(metrics, clock), lambda: 0.0))
        await asyncio.sleep(60.0)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()

    run_virtual(story)
    waits = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert waits == sorted(waits)
    assert waits[0] < 0.5
    assert waits[-1] > 5.0
    assert counted(metrics, "gossip") == len(begun)
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text
    assert len(caplog.records) <= len(begun)


def test_a_loop_that_ends_is_not_restarted_and_an_exception_group_is_one_bug() -> None:
    metrics, turns = Metrics(), list[int]()

    async def loop() -> None:
        turns.append(1)
        if len(turns) == 1:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_fail())

    async def story() -> None:
        await keep_running("metadata", loop, Unexpected(metrics, asyncio.get_running_loop().time), lambda: 0.0)

    run_virtual(story)
    assert len(turns) == 2
    assert counted(metrics, "metadata") == 1


async def _fail() -> None:
    raise KeyError("a bug")


def test_an_exception_in_a_callback_is_counted() -> None:
    metrics = Metrics()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(Unexpected(metrics, loop.time).handle_loop_exception)
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.1)

    run_virtual(story)
    assert counted(metrics, "callback") == 1
