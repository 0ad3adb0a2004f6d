"""Wall clocks that are wrong from the start, and jump under load: every answer stays the same, and no drain is late."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import uvloop

from node_agent.adapters.steady_clock import SteadyClock
from tests.faults.load import LoadGenerator
from tests.faults.outage import seeds
from tests.scenarios.local_fleet import local_fleet
from tests.scenarios.test_clocks import Wall

JUMPS = 4
SKEWS_S = (60.0, -45.0, 3_600.0, -3_600.0, 86_400.0, -86_400.0)
NOTICE_S = 15.0


@pytest.mark.parametrize("seed", seeds())
def test_clocks_that_are_wrong_and_jump_change_no_answer_and_delay_no_drain(seed: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        walls = [Wall() for _ in range(3)]
        walls[chance.randrange(3)].ahead_s = chance.choice(SKEWS_S)
        clocks = {number: SteadyClock(wall) for number, wall in enumerate(walls)}
        async with local_fleet(tmp_path, seconds_per_token=0.005, clocks=clocks) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes)
            for _ in range(JUMPS):
                number, ahead_s = chance.randrange(3), chance.choice((0.0, *SKEWS_S))
                print(f"seed {seed}: the clock of {fleet.nodes[number].instance_id} jumps to {ahead_s:+.0f} s")
                requests = asyncio.create_task(load.everywhere(fleet.nodes, 3))
                await asyncio.sleep(chance.random() * 0.1)  # a random position in the answers
                walls[number].ahead_s = ahead_s
                await requests
                assert all(node.agent.parts.node.state.takes_requests for node in fleet.nodes)
            draining = chance.choice(fleet.nodes)
            requests = asyncio.create_task(load.everywhere(fleet.others(draining), 3))
            draining.notice(NOTICE_S)
            async with asyncio.timeout(NOTICE_S):  # on a busy machine it may have drained between two looks
                while draining.agent.parts.node.state.takes_requests:  # noqa: ASYNC110 # its watch polls IMDS
                    await asyncio.sleep(0.01)
            walls[fleet.nodes.index(draining)].ahead_s = chance.choice(SKEWS_S)
            assert draining.life is not None
            assert await asyncio.wait_for(draining.life, NOTICE_S + 5.0) == 0
            await requests

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
