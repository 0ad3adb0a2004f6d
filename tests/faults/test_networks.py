"""Random network partitions that heal, on virtual time and by seed."""

from __future__ import annotations

import random

import pytest

from node_agent.core.node.status import Liveness
from sim.network import NetworkConditions
from tests.faults.outage import ROUNDS, SEED
from tests.scenarios.fleets import agree, instance_ids, liveness_at, stable_fleet, wait_until_agreed

SEEDS = [SEED + number for number in range(5 * ROUNDS)]


@pytest.mark.parametrize("seed", SEEDS)
def test_partitioned_halves_list_only_themselves_and_merge_after_the_partition_heals(seed: int) -> None:
    chance = random.Random(seed)
    size = chance.randrange(4, 13)
    weather = NetworkConditions(repeated=0.05, late=0.05) if chance.random() < 0.5 else None
    fleet = stable_fleet(size, seed, weather)
    hosts = list(fleet.hosts.values())
    chance.shuffle(hosts)
    cut = chance.randrange(1, size)
    left, right = hosts[:cut], hosts[cut:]
    fleet.split(left, right)
    fleet.pass_time(chance.uniform(30.0, 120.0))
    for side in (left, right):
        for host in side:
            others = {status.instance_id for status in host.membership.view.alive}
            assert others <= instance_ids(side), "no node lists the other half as alive"
    fleet.split()
    wait_until_agreed(fleet, hosts, 60.0)
    fleet.pass_time(30.0)
    assert agree(hosts), "the agreement lasts"
    assert all(liveness_at(by, host) is Liveness.ALIVE for by in hosts for host in hosts if by is not host)
