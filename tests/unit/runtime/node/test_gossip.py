"""Membership's shell between two nodes: datagrams, questions over a door, tags, a clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.membership import GossipConfig, MemberChanged, Membership, NodesDiscovered
from node_agent.core.node.discovery_schedule import DiscoverySchedule
from node_agent.core.node.own_tags import STATE_SETTLES_S
from node_agent.core.node.status import Liveness, NodeStatus, Pool, TaggedNode
from node_agent.core.node.vouched_nodes import VouchedNodes
from node_agent.ports import ServerRequest
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.node import gossip
from node_agent.runtime.node.gossip import MEMBERS_TARGET, Gossip
from tests.borders.virtual_time import run_virtual

FAST = GossipConfig(
    probe_interval_s=0.05, probe_timeout_s=0.02, probe_deadline_s=0.04, gossip_interval_s=0.02, sync_after_change_s=0.2
)


@dataclass
class Air:
    """Datagrams between gossips of one loop. deaf: nothing comes through."""

    by_address: dict[str, Gossip] = field(default_factory=dict)
    deaf: bool = False

    def send(self, to: Address, data: bytes) -> None:
        gossip = self.by_address.get(str(to))
        if gossip is not None and not self.deaf:
            asyncio.get_running_loop().call_soon(gossip.on_datagram, data)


class Party:
    """One node: its gossip, its door."""

    def __init__(self, number: int, air: Air) -> None:
        self.listener = bind("127.0.0.1", 0, "peer door")
        address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        status = NodeStatus(f"i-{number}", address, "f:1", NodeState.READY, Pool("z", "t"), "m", 1)
        clock = asyncio.get_running_loop().time
        machine = Membership(status, bytes([number] * 6), b"key", clock(), lambda: 0.3, config=FAST)
        self.client = HttpClient()
        self.changes: list[MemberChanged] = []
        self.gossip = Gossip(machine, air, self.client, clock, Metrics(), on_change=self.changes.append)
        self.tag = TaggedNode(f"i-{number}", address, NodeState.READY)
        self.door = HttpServer(self._answer)
        self.listings = 0
        air.by_address[address] = self.gossip

    async def _answer(self, request: ServerRequest) -> None:
        assert request.target == MEMBERS_TARGET
        self.listings += 1
        answer = self.gossip.on_sync_request(request.body)
        request.respond(401 if answer is None else 200, answer or b"")

    def holds(self, number: int) -> Liveness | None:
        member = self.gossip.machine.members.get(f"i-{number}")
        return member.liveness if member is not None else None


def run_scenario(story: Callable[[Party, Party, Air], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        air = Air()
        one, two = Party(1, air), Party(2, air)
        loops = [asyncio.ensure_future(party.gossip.run()) for party in (one, two)]
        for party in (one, two):
            await party.door.start(party.listener)
        async with asyncio.timeout(20):
            await story(one, two, air)
        for loop in loops:
            loop.cancel()
        for party in (one, two):
            party.door.abort()
            await party.client.close()

    run_virtual(run)


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110 # of any condition
        await asyncio.sleep(0.01)


def test_two_nodes_discover_each_other_by_tag_and_notice_when_one_stops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger=gossip.__name__)

    async def story(one: Party, two: Party, air: Air) -> None:
        one.gossip.handle(NodesDiscovered(one.gossip.monotonic(), [one.tag, two.tag]))
        await until(lambda: one.holds(2) is two.holds(1) is Liveness.ALIVE)
        assert [change.after for change in one.changes] == [Liveness.ALIVE]
        await until(lambda: two.listings + one.listings > 0)  # their tables were compared over a door
        del air.by_address[two.tag.peer_address]
        two.door.abort()
        await until(lambda: one.holds(2) is Liveness.DEAD)
        assert one.changes[-1].after is Liveness.DEAD
        logged = [line for line in caplog.messages if line.startswith(f"i-2 at {two.tag.peer_address}: ")]
        assert logged[0].endswith(": alive, was new: answered")
        assert logged[-1].endswith(": dead, was suspect: not refuted, 1 suspectors")

    run_scenario(story)


def test_a_network_without_datagrams_still_has_a_fleet() -> None:
    async def story(one: Party, two: Party, air: Air) -> None:
        one.gossip.handle(NodesDiscovered(one.gossip.monotonic(), [two.tag]))
        await until(lambda: one.holds(2) is Liveness.ALIVE)
        air.deaf = True
        listings = two.listings
        await until(lambda: two.listings > listings + 3)
        assert one.holds(2) is Liveness.ALIVE

    run_scenario(story)


def test_an_unsigned_request_gets_no_answer() -> None:
    async def story(one: Party, two: Party, air: Air) -> None:
        assert one.gossip.on_sync_request(b"let me in") is None

    run_scenario(story)


class Ec2Listing:
    """EC2 that lists these nodes. reads: the instants."""

    def __init__(self, *nodes: TaggedNode) -> None:
        self.found = list(nodes)
        self.reads: list[float] = []

    async def nodes(self, cluster: str, most_calls: int | None) -> list[TaggedNode]:
        self.reads.append(asyncio.get_running_loop().time())
        return self.found


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({}, []),
        ({"is_shut_out": True}, ["shut out"]),
        ({"public_key": "B" * 44}, ["tags differ"]),
        ({"public_key": None}, ["tags differ"]),
        ({"peer_address": "10.0.0.9:8001"}, ["tags differ"]),
    ],
)
def test_a_node_compares_what_ec2_lists_of_itself(changes: dict[str, Any], called: list[str]) -> None:
    async def story(one: Party, two: Party, air: Air) -> None:
        calls: list[str] = []
        status = replace(one.gossip.machine.status, public_key="A" * 44)
        clock = asyncio.get_running_loop().time
        machine = Membership(status, bytes([9] * 6), b"key", clock(), lambda: 0.3)
        own = Gossip(machine, air, one.client, clock, Metrics(), on_shut_out=lambda: calls.append("shut out"))
        own.on_tags_differ = lambda: calls.append("tags differ")
        ec2 = Ec2Listing(replace(one.tag, **{"public_key": "A" * 44, **changes}))
        looking = asyncio.ensure_future(own.discover(ec2, "c", DiscoverySchedule(0.0), lambda: 0.5))  # type: ignore[arg-type] # plays EC2
        await until(lambda: bool(ec2.reads))
        await asyncio.sleep(0.1)
        looking.cancel()
        assert calls == called

    run_scenario(story)


def test_a_node_writes_its_state_again_where_a_drill_has_tagged_it() -> None:
    """A drill's event reaches the Lambdas only: without this the node would be tagged as draining for ever."""

    async def story(one: Party, two: Party, air: Air) -> None:
        calls: list[str] = []
        status = replace(one.gossip.machine.status, public_key="A" * 44)
        clock = asyncio.get_running_loop().time
        machine = Membership(status, bytes([9] * 6), b"key", clock(), lambda: 0.3)
        own = Gossip(machine, air, one.client, clock, Metrics())
        own.on_tags_differ = lambda: calls.append("tags differ")
        ec2 = Ec2Listing(replace(one.tag, public_key="A" * 44, state=NodeState.DRAINING))
        looking = asyncio.ensure_future(own.discover(ec2, "c", DiscoverySchedule(0.0), lambda: 0.5))  # type: ignore[arg-type] # plays EC2
        await until(lambda: len(ec2.reads) == 1)
        assert calls == []
        await until(lambda: bool(calls))
        looking.cancel()
        assert ec2.reads[-1] - ec2.reads[0] >= STATE_SETTLES_S

    run_scenario(story)


def test_a_member_that_waits_for_ec2_is_looked_up_soon_and_the_reads_get_rarer() -> None:
    async def story(one: Party, two: Party, air: Air) -> None:
        clock = asyncio.get_running_loop().time
        machine = Membership(
            one.gossip.machine.status, bytes([9] * 6), b"key", clock(), lambda: 0.3, vouched=VouchedNodes()
        )
        own = Gossip(machine, air, one.client, clock, Metrics())
        ec2 = Ec2Listing()
        looking = asyncio.ensure_future(own.discover(ec2, "c", DiscoverySchedule(0.0), lambda: 0.5))  # type: ignore[arg-type] # plays EC2
        await asyncio.sleep(0.5)
        assert len(ec2.reads) == 1
        machine.add_member(bytes([2] * 6), replace(two.gossip.machine.status, public_key="B" * 44))
        own.handle(NodesDiscovered(clock(), [], is_complete=False))
        began = clock()
        own._unvouched_came.set()
        await asyncio.sleep(10.0)
        waits = [later - earlier for earlier, later in itertools.pairwise([began, *ec2.reads[1:]])]
        assert waits[0] <= 1.5
        assert waits == sorted(waits)
        assert len(waits) <= 5
        ec2.found = [replace(two.tag, public_key="B" * 44)]
        await until(lambda: not machine.view.unvouched)
        assert [status.instance_id for status in machine.view.alive] == ["i-2"]
        looking.cancel()

    run_scenario(story)


def test_an_ec2_that_does_not_answer_changes_nothing() -> None:
    class Ec2:
        """It answers once."""

        def __init__(self, found: TaggedNode) -> None:
            self.looks = 0
            self.found = found

        async def nodes(self, cluster: str, most_calls: int | None) -> list[TaggedNode]:
            assert most_calls == (1 if self.looks == 0 else None)
            self.looks += 1
            if self.looks > 1:
                raise StoreUnavailable("RequestLimitExceeded")
            return [self.found]

    class Reads(DiscoverySchedule):
        """Waits that a test can wait for."""

        def __init__(self) -> None:
            super().__init__(0.0)
            self.waits: list[float] = []

        def next_delay_s(self, nodes: int, chance: float) -> float:
            return 0.01

        def retry_delay_s(self, nodes: int, chance: float) -> float:
            self.waits.append(super().retry_delay_s(nodes, chance))
            return 0.01

    async def story(one: Party, two: Party, air: Air) -> None:
        ec2, reads = Ec2(two.tag), Reads()
        looking = asyncio.ensure_future(one.gossip.discover(ec2, "c", reads, lambda: 0.5))  # type: ignore[arg-type] # plays EC2
        await until(lambda: len(reads.waits) >= 3 and one.holds(2) is Liveness.ALIVE)
        looking.cancel()
        assert reads.waits[0] < reads.waits[1] < reads.waits[2]

    run_scenario(story)
