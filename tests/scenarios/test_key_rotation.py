"""A rotation of the cluster's key under load, and a node that is shut out: real agents, real streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from node_agent.contract.tags import SHUT_OUT_TAG
from node_agent.core.common.cluster_keys import ClusterKeySet, cluster_key
from node_agent.core.node.discovery_schedule import DiscoverySchedule
from node_agent.core.node.status import Liveness
from node_agent.dependencies import Dependencies
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually, local_fleet
from tests.scenarios.streams import CHAT, expected, find_engine, open_stream, read_until

OLD, NEW = cluster_key(b"cluster key"), cluster_key(b"the next key of the cluster")
STEPS = (ClusterKeySet(OLD, next=NEW), ClusterKeySet(NEW, previous=OLD), ClusterKeySet(NEW))


class Secrets:
    """Secrets Manager, shared by all nodes."""

    def __init__(self) -> None:
        self.document = OLD.secret

    async def read(self, name: str) -> bytes:
        return self.document

    def give(self, outside: Dependencies) -> Dependencies:
        return replace(outside, secrets=self)


@pytest.fixture
def quick_listings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes read EC2's tags twice a second."""
    monkeypatch.setattr(DiscoverySchedule, "next_delay_s", lambda self, nodes, chance: 0.25 + chance / 2)


def lost(fleet: LocalFleet) -> dict[str, float]:
    """Return each node's count of members that it came to hold for suspect, dead or gone."""
    return {
        node.instance_id: sum(
            node.agent.parts.node.metrics.peer_changes.labels(kind.value)._value.get()
            for kind in (Liveness.SUSPECT, Liveness.DEAD, Liveness.LEFT)
        )
        for node in fleet.nodes
    }


async def stream(fleet: LocalFleet, entry: LocalNode, number: int) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": f"a night train {number}"}]}
    async with open_stream(fleet, entry, "chat", body) as reader:
        await read_until(reader)
    assert (reader.error, reader.text) == (None, expected("chat", body).text)


def test_a_rotation_under_load_breaks_no_stream_and_costs_no_member(tmp_path: Path, quick_listings: None) -> None:
    secrets = Secrets()

    async def scenario(fleet: LocalFleet) -> None:
        is_over, count = asyncio.Event(), 0

        async def load(entry: LocalNode) -> None:
            nonlocal count
            while not is_over.is_set():
                count += 1
                await stream(fleet, entry, count)

        loads = [asyncio.create_task(load(node)) for node in fleet.nodes]
        for keys in STEPS:
            secrets.document = keys.to_document().encode()

            async def all_have_read(keys: ClusterKeySet = keys) -> bool:
                listed = await fleet.instances.nodes("synkti")
                return all(node.cluster_keys == keys.key_ids for node in listed)

            await eventually("all nodes publish the step", all_have_read, 60.0)
        is_over.set()
        await asyncio.gather(*loads)
        assert count >= 2 * len(fleet.nodes)
        assert set(lost(fleet).values()) == {0.0}
        for node in fleet.nodes:
            metrics = node.agent.parts.node.metrics
            assert metrics.foreign_nodes._value.get() == 0
            refused = [sample.value for each in metrics.refused_peers.collect() for sample in each.samples]
            assert sum(refused) == 0, "no request was refused"

    async def run() -> None:
        options: dict[str, Any] = {"SYNKTI_CLUSTER_KEY_READ_S": "2", "seconds_per_token": 0.01, "through": secrets.give}
        async with local_fleet(tmp_path, 5, **options) as fleet:
            await scenario(fleet)

    uvloop.run(run())


def test_a_node_that_is_shut_out_gets_nothing_more_and_its_streams_continue_elsewhere(
    tmp_path: Path, quick_listings: None
) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        entry, *_ = fleet.others(engine)
        async with open_stream(fleet, entry, "chat", CHAT) as reader:
            await read_until(reader, 20, exclude(fleet, engine))
        assert (reader.error, reader.text) == (None, expected("chat", CHAT).text)

        async def is_out() -> bool:
            views = [node.agent.parts.node.members.view.known for node in fleet.others(engine)]
            return all(engine.instance_id not in {status.instance_id for status in view} for view in views)

        await eventually("no other node has it", is_out)
        assert engine.life is not None
        await asyncio.wait_for(asyncio.shield(engine.life), 30.0)
        for number in range(4):
            await stream(fleet, entry, number)

    async def run() -> None:
        async with local_fleet(tmp_path, 3, seconds_per_token=0.02) as fleet:
            await scenario(fleet)

    uvloop.run(run())


def exclude(fleet: LocalFleet, node: LocalNode) -> Callable[[], None]:
    return lambda: fleet.instances.tags[node.instance_id].update({SHUT_OUT_TAG: "yes"})
