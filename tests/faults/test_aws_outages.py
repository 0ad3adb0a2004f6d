"""Static stability: one AWS service at a time fails, in each mode, under load; the fleet serves, and catches up."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
import uvloop

from node_agent.contract.states import NodeState
from tests.faults.load import LoadGenerator
from tests.faults.outage import MODES, SEED, SERVICES, has_recovered, outages, random_outages, seeds, with_outages
from tests.scenarios.local_fleet import eventually, local_fleet

ROUNDS_EACH = 5


@pytest.mark.parametrize("seed", seeds())
def test_a_fleet_serves_during_an_outage_of_any_aws_service_and_catches_up_afterwards(
    seed: int, tmp_path: Path
) -> None:
    async def scenario() -> None:
        services = outages()
        async with local_fleet(tmp_path, seconds_per_token=0.002, through=partial(with_outages, services)) as fleet:
            load = LoadGenerator(fleet)
            await load.everywhere(fleet.nodes)
            for service, mode in random_outages(seed, ROUNDS_EACH):
                print(f"seed {seed}: {service} is {mode}")
                services[service].begin(mode)
                await load.everywhere(fleet.nodes)
                states = {node.agent.parts.node.state for node in fleet.nodes}
                assert states == {NodeState.READY}, f"{service} is {mode}"
                assert all(node.life is not None and not node.life.done() for node in fleet.nodes)
                services[service].end()
            await eventually("tags and records are right", partial(has_recovered, fleet))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("service", [service for service in SERVICES if service != "metadata"])
def test_a_node_drains_in_time_during_an_outage_of_any_aws_service(service: str, seed: int, tmp_path: Path) -> None:
    """Clients lose no token, and the drain does not wait for the service."""

    async def scenario() -> None:
        services = outages()
        async with local_fleet(tmp_path, seconds_per_token=0.005, through=partial(with_outages, services)) as fleet:
            load, draining = LoadGenerator(fleet), fleet.nodes[seed % 3]
            mode = MODES[(seed - SEED) % len(MODES)]
            print(f"seed {seed}: {service} is {mode} while {draining.instance_id} drains")
            services[service].begin(mode)
            requests = asyncio.create_task(load.everywhere(fleet.others(draining), 4))
            draining.notice(20.0)
            assert draining.life is not None
            assert await asyncio.wait_for(draining.life, 20) == 0
            await requests
            services[service].end()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("seed", seeds())
def test_a_notice_is_handled_as_soon_as_imds_recovers(seed: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        services, mode = outages(), MODES[(seed - SEED) % len(MODES)]
        print(f"seed {seed}: IMDS is {mode}")
        async with local_fleet(tmp_path, 2, seconds_per_token=0.002, through=partial(with_outages, services)) as fleet:
            node = fleet.nodes[0]
            services["metadata"].begin(mode)
            node.notice(15.0)
            await LoadGenerator(fleet).everywhere(fleet.nodes, 1)
            services["metadata"].end()
            assert node.life is not None
            assert await asyncio.wait_for(node.life, 20) == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_nodes_that_start_during_an_ec2_and_dynamodb_outage_meet_after_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        services = outages()
        for service in ("ec2", "dynamodb"):
            services[service].begin("throttled")

        async def called() -> bool:
            return services["ec2"].calls >= 3 and services["dynamodb"].calls >= 3

        async def recover() -> None:
            await eventually("both services were called", called)
            for service in ("ec2", "dynamodb"):
                services[service].end()

        returning = asyncio.create_task(recover())
        async with local_fleet(tmp_path, seconds_per_token=0.002, through=partial(with_outages, services)) as fleet:
            await returning
            await LoadGenerator(fleet).everywhere(fleet.nodes, 1)
            await eventually("tags and records are right", partial(has_recovered, fleet))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_every_service_and_every_mode_is_drawn() -> None:
    pairs = {pair for seed in range(40) for pair in random_outages(seed, ROUNDS_EACH)}
    assert {service for service, _ in pairs} == set(SERVICES)
    assert {mode for _, mode in pairs} == set(MODES)
