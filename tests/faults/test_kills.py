"""OOM kills: agents and engines are killed by SIGKILL repeatedly under load; every answer stays the same."""

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
def test_killed_engines_restart_and_no_answer_changes(seed: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        async with local_fleet(tmp_path, seconds_per_token=0.005) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes)
            for _ in range(KILLS):
                victim = chance.choice(fleet.nodes)
                print(f"seed {seed}: the engine of {victim.instance_id} is killed")
                requests = asyncio.create_task(load.everywhere(fleet.nodes, 3))
                await asyncio.sleep(chance.random() * 0.1)  # a random position in the answers
                victim.kill_engine()
                await requests
                await eventually("the node serves again", partial(fleet.ready, victim))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("seed", seeds())
def test_a_killed_agent_fails_no_request_at_the_other_nodes(seed: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        async with local_fleet(tmp_path, seconds_per_token=0.005) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes)
            victim = chance.choice(fleet.nodes)
            print(f"seed {seed}: the agent of {victim.instance_id} is killed")
            requests = asyncio.create_task(load.everywhere(fleet.others(victim), 4))
            await asyncio.sleep(chance.random() * 0.1)  # a random position in the answers
            await victim.crash()
            await requests
            await load.everywhere(fleet.others(victim), 2)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
