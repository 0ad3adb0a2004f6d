"""OOM kills: agents and engines end by SIGKILL, again and again, under load; no answer is other than ever."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path

import pytest
import uvloop

from tests.faults.load import LoadGenerator
from tests.faults.outage import seeds
from tests.scenarios.local_fleet import eventually, local_fleet

KILLS = 3


@pytest.mark.parametrize("seed", seeds())
def test_engines_that_the_kernel_kills_are_started_again_and_cost_a_pause(seed: int, tmp_path: Path) -> None:
    async def story() -> None:
        chance = random.Random(seed)
        async with local_fleet(tmp_path, seconds_per_token=0.005) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes)
            for _ in range(KILLS):
                victim = chance.choice(fleet.nodes)
                print(f"seed {seed}: the engine of {victim.instance_id} is killed")
                asking = asyncio.create_task(load.everywhere(fleet.nodes, 3))
                await asyncio.sleep(chance.random() * 0.1)  # where in the answers it happens
                victim.kill_engine()
                await asking
                await eventually("it serves again", partial(fleet.ready, victim))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


@pytest.mark.parametrize("seed", seeds())
def test_an_agent_that_the_kernel_kills_takes_no_others_clients_with_it(seed: int, tmp_path: Path) -> None:
    async def story() -> None:
        chance = random.Random(seed)
        async with local_fleet(tmp_path, seconds_per_token=0.005) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes)
            victim = chance.choice(fleet.nodes)
            print(f"seed {seed}: the agent of {victim.instance_id} is killed")
            asking = asyncio.create_task(load.everywhere(fleet.others(victim), 4))
            await asyncio.sleep(chance.random() * 0.1)  # where in the answers it happens
            await victim.crash()
            await asking
            await load.everywhere(fleet.others(victim), 2)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())
