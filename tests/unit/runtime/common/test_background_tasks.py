"""Work in the background: held until it is done, its bugs reported, its cancellation not."""

from __future__ import annotations

import asyncio
import gc

from node_agent.runtime.common.background_tasks import BackgroundTasks
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.common.supervised_task import Unexpected
from tests.borders.virtual_time import run_virtual


def bugs(metrics: Metrics) -> float:
    return float(metrics.unexpected.labels("background")._value.get())


def test_work_is_held_until_it_is_done() -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(5.0)
        done.append("work")

    async def story() -> None:
        tasks = BackgroundTasks(Unexpected(Metrics(), asyncio.get_running_loop().time))
        tasks.start(work())
        gc.collect()
        assert len(tasks) == 1
        await asyncio.sleep(6.0)
        assert len(tasks) == 0

    run_virtual(story)
    assert done == ["work"]


def test_an_exception_is_reported_as_a_bug_and_a_cancellation_is_not() -> None:
    metrics = Metrics()

    async def fail() -> None:
        raise KeyError("a bug")

    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    async def story() -> None:
        tasks = BackgroundTasks(Unexpected(metrics, asyncio.get_running_loop().time))
        tasks.start(fail())
        tasks.start(cancel_itself())
        await asyncio.sleep(1.0)
        assert len(tasks) == 0

    run_virtual(story)
    assert bugs(metrics) == 1
