"""Static stability: each AWS service fails in each way, alone, under load; the fleet serves, and makes up for it."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
import uvloop

from node_agent.contract.states import NodeState
from tests.faults.load import LoadGenerator
from tests.faults.outage import SEED, SERVICES, WAYS, has_recovered, outages, random_outages, seeds, with_outages
from tests.scenarios.local_fleet import eventually, local_fleet

ROUNDS_EACH = 5


@pytest.mark.parametrize("seed", seeds())
def test_a_fleet_serves_whichever_service_is_away_and_makes_up_for_it(seed: int, tmp_path: Path) -> None:
    async def story() -> None:
        away = outages()
        async with local_fleet(tmp_path, seconds_per_token=0.002, through=partial(with_outages, away)) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes)
            for service, way in random_outages(seed, ROUNDS_EACH):
                print(f"seed {seed}: {service} is {way}")
                away[service].begin(way)
                await load.everywhere(fleet.nodes)
                states = {node.agent.replication.node.state for node in fleet.nodes}
                assert states == {NodeState.READY}, f"{service} is {way}"
                assert all(node.life is not None and not node.life.done() for node in fleet.nodes)
                away[service].end()
            await eventually("tags and records are right", partial(has_recovered, fleet))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("service", [service for service in SERVICES if service != "metadata"])
def test_a_node_drains_in_time_whichever_service_is_away(service: str, seed: int, tmp_path: Path) -> None:
    """Its clients lose nothing, and its end waits for nobody."""

    async def story() -> None:
        away = outages()
        async with local_fleet(tmp_path, seconds_per_token=0.005, through=partial(with_outages, away)) as fleet:
            load, going = LoadGenerator(fleet), fleet.nodes[seed % 3]
            way = WAYS[(seed - SEED) % len(WAYS)]
            print(f"seed {seed}: {service} is {way} while {going.instance_id} drains")
            away[service].begin(way)
            asking = asyncio.create_task(load.everywhere(fleet.others(going), 4))
            going.notice(20.0)
            assert going.life is not None
            assert await asyncio.wait_for(going.life, 20) == 0
            await asking
            away[service].end()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


@pytest.mark.parametrize("seed", seeds())
def test_a_notice_is_seen_as_soon_as_imds_is_back(seed: int, tmp_path: Path) -> None:
    async def story() -> None:
        away, way = outages(), WAYS[(seed - SEED) % len(WAYS)]
        print(f"seed {seed}: IMDS is {way}")
        async with local_fleet(tmp_path, 2, seconds_per_token=0.002, through=partial(with_outages, away)) as fleet:
            node = fleet.nodes[0]
            away["metadata"].begin(way)
            node.notice(15.0)
            await LoadGenerator(fleet).everywhere(fleet.nodes, 1)
            away["metadata"].end()
            assert node.life is not None
            assert await asyncio.wait_for(node.life, 20) == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def test_a_fleet_starts_while_tags_and_table_are_away_and_finds_itself_once_they_are_back(tmp_path: Path) -> None:
    async def story() -> None:
        away = outages()
        for service in ("ec2", "dynamodb"):
            away[service].begin("throttled")

        async def asked() -> bool:
            return away["ec2"].asked >= 3 and away["dynamodb"].asked >= 3

        async def back() -> None:
            await eventually("all have asked", asked)
            for service in ("ec2", "dynamodb"):
                away[service].end()

        returning = asyncio.create_task(back())
        async with local_fleet(tmp_path, seconds_per_token=0.002, through=partial(with_outages, away)) as fleet:
            await returning
            await LoadGenerator(fleet).everywhere(fleet.nodes, 1)
            await eventually("tags and records are right", partial(has_recovered, fleet))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


def test_every_service_and_way_is_drawn() -> None:
    pairs = {pair for seed in range(40) for pair in random_outages(seed, ROUNDS_EACH)}
    assert {service for service, _ in pairs} == set(SERVICES)
    assert {way for _, way in pairs} == set(WAYS)
