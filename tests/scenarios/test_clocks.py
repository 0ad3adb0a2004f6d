"""A fleet of real agents in which one node's wall clock is wrong or jumps."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import uvloop

from node_agent.adapters.steady_clock import SteadyClock
from node_agent.composition import membership as composed_membership
from node_agent.contract.states import NodeState
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.machine import Membership
from node_agent.runtime.node import clock_monitor
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually, local_fleet


@dataclass
class Wall:
    """A wall clock that is `ahead_s` ahead of the real one."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


async def request_and_check(fleet: LocalFleet, entry: LocalNode, stream: bool, number: int) -> None:
    """Send a request and assert that its answer is complete, whichever engine generated it."""
    body = {"model": MODEL, "prompt": f"question {number} {entry.host}", "max_tokens": 5, "stream": stream}
    response = await fleet.http.post(f"{entry.url}/v1/completions", json=body)
    assert response.status_code == 200, response.text
    assert '"finish_reason":"length"' in response.text.replace(" ", "")
    assert "error" not in response.text


async def request_everywhere(fleet: LocalFleet, count: int = 4) -> None:
    requests = [(entry, stream, number) for entry in fleet.nodes for stream in (True, False) for number in range(count)]
    await asyncio.gather(*(request_and_check(fleet, *each) for each in requests))


async def clock_of(fleet: LocalFleet, node: LocalNode) -> dict[str, float]:
    clock: dict[str, float] = (await fleet.http.get(f"{node.url}/v1/synkti/nodes")).json()["clock"]
    return clock


async def metric(fleet: LocalFleet, node: LocalNode, name: str) -> float:
    lines = (await fleet.http.get(f"{node.admin_url}/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_monitor, "EVERY_S", 0.05)
    often = GossipConfig(sync_interval_s=0.2, sync_after_change_s=0.2)
    monkeypatch.setattr(composed_membership, "Membership", partial(Membership, config=often))


@pytest.mark.parametrize("skew_s", [60.0, -45.0, 86_400.0])
def test_a_wrong_clock_affects_no_client_and_the_node_reports_it(skew_s: float, tmp_path: Path) -> None:
    """Before, nodes rejected each other's signatures, and 25 to 100 % of requests got 401."""

    async def scenario() -> None:
        skewed = SteadyClock(Wall(skew_s))
        async with local_fleet(
            tmp_path, seconds_per_token=0.002, clocks={1: skewed}, SYNKTI_REPLICA_LAG_S="10"
        ) as fleet:
            await request_everywhere(fleet)
            wrong, right = fleet.nodes[1], fleet.nodes[0]

            async def at_risk() -> bool:
                return wrong.agent.parts.node.state is NodeState.AT_RISK

            await eventually("the node with the wrong clock is at risk", at_risk)
            own = await clock_of(fleet, wrong)
            assert own["is_off"]
            assert own["off_s"] == pytest.approx(skew_s, abs=5)
            assert await metric(fleet, wrong, "synkti_clock_is_off") == 1
            assert await metric(fleet, wrong, "synkti_clock_off_seconds") == pytest.approx(skew_s, abs=5)
            for node in (right, fleet.nodes[2]):
                assert not (await clock_of(fleet, node))["is_off"]
                assert node.agent.parts.node.state is NodeState.READY
                assert await metric(fleet, node, "synkti_unreplicated_events_total") == 0
            await request_everywhere(fleet, 2)
            nodes = (await fleet.http.get(f"{right.url}/v1/synkti/nodes")).json()["nodes"]
            ahead = {node["instance_id"]: node["clock_ahead_s"] for node in nodes}
            assert ahead[wrong.instance_id] == pytest.approx(skew_s, abs=5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_clock_jumps_fail_no_request_and_a_corrected_clock_ends_the_at_risk_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        wall = Wall()
        async with local_fleet(tmp_path, seconds_per_token=0.002, clocks={0: SteadyClock(wall)}) as fleet:
            node = fleet.nodes[0].agent.parts.node
            await request_everywhere(fleet, 2)

            async def measured() -> bool:
                return (await clock_of(fleet, fleet.nodes[0]))["measured"] == 2

            async def is_in(state: NodeState) -> bool:
                return node.state is state

            await eventually("both peers' clocks are measured", measured)
            for ahead_s in (3600.0, -3600.0):
                wall.ahead_s = ahead_s
                await request_everywhere(fleet, 2)
                await eventually("the node is at risk", partial(is_in, NodeState.AT_RISK))
                wall.ahead_s = 0.0
                await eventually("the node is ready again", partial(is_in, NodeState.READY))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("jump_s", [300.0, -300.0])
def test_a_clock_jump_during_a_drain_moves_no_deadline(jump_s: float, tmp_path: Path) -> None:
    """Deadlines, and everything planned by them, are measured by the agent's steady clock."""

    async def scenario() -> None:
        wall = Wall()
        steady = SteadyClock(wall)
        async with local_fleet(tmp_path, seconds_per_token=0.002, clocks={0: steady}) as fleet:
            node = fleet.nodes[0]
            node.notice(60.0)

            async def draining() -> bool:
                return node.agent.parts.node.state is not NodeState.READY

            lifecycle = node.agent._reactor._lifecycle
            await eventually("the node drains", draining)
            before = lifecycle.deadline
            wall.ahead_s = jump_s
            assert node.life is not None
            assert await asyncio.wait_for(node.life, 30) == 0
            assert lifecycle.deadline == before
            assert "drained" in str(fleet.records.records[node.instance_id].timeline)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
