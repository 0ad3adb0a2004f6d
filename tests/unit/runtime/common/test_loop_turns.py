"""Test that many tasks which wait for one moment proceed a few in each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter

from node_agent.runtime.common.loop_turns import LoopTurns

TASKS, PER_TURN = 50, 4


def test_a_few_tasks_proceed_in_each_turn_in_their_order() -> None:
    async def run() -> None:
        turns, turn, proceeded = LoopTurns(PER_TURN), 0, list[tuple[int, int]]()

        async def work(number: int) -> None:
            await turns.wait()
            proceeded.append((turn, number))

        tasks = [asyncio.create_task(work(number)) for number in range(TASKS)]
        for turn in range(3 * TASKS):  # noqa: B007 # `work` reads it
            await asyncio.sleep(0)
        assert [number for _, number in proceeded] == list(range(TASKS))
        assert max(Counter(at for at, _ in proceeded).values()) <= PER_TURN
        assert proceeded[-1][0] < TASKS, "the other tasks wait for no more than their turns"
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_a_task_alone_does_not_wait_and_one_that_is_cancelled_takes_no_turn() -> None:
    async def run() -> None:
        turns = LoopTurns(1)
        for _ in range(3):
            await asyncio.wait_for(turns.wait(), 1.0)
            cancelled = asyncio.create_task(turns.wait())
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait({cancelled})

    asyncio.run(run())
