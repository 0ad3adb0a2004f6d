"""Test when a client is sent its events: after their records are replicated, in order, and all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from node_agent.contract.errors import StaleEpoch
from node_agent.core.common.address import Address
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication import protocol
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.protocol import APPEND, DROP, FINISH, OPEN
from node_agent.core.replication.refusal import RefusalReason
from node_agent.core.replication.replica_store import MAX_HEADER_BYTES, ReplicaStore
from node_agent.core.replication.replicated_log import (
    MAX_REOPENS,
    CloseReason,
    ReplicatedLog,
    StopReason,
)
from node_agent.ports import LinkListener, ReplicaLink
from node_agent.runtime.replication.manager import _RETRY_FULL_EVERY, ReplicationManager
from node_agent.runtime.replication.replicated_stream import MAX_WAIT_S, ReplicatedStream
from node_agent.testing.fakes import MemoryRequest
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import make_node


@dataclass
class Link:
    """A replica that acknowledges on command."""

    owner: LinkListener
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    receipts: list[Any] = field(default_factory=list)
    is_late: bool = False

    def send(self, message: bytes, receipt: object = None) -> None:
        ((kind, _, number, body),) = protocol._messages(message)
        self.sent.append((kind, body))
        self.last = kind, number
        self.receipts.append(receipt)

    def acknowledge(self) -> None:
        receipts, self.receipts = self.receipts, []
        self.owner.acknowledged(receipts)

    def lag(self) -> None:
        self.is_late = True
        self.owner.overdue(self.receipts)

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Stage:
    """A stream of a node with so many peers. links: to its replicas, by the host of their address."""

    peers: int = 2
    wanted: int = 2
    links: dict[str, Link] = field(default_factory=dict)
    client: MemoryRequest = field(default_factory=MemoryRequest)
    fenced: int = 0

    def connect(self, address: Address, owner: LinkListener) -> ReplicaLink:
        self.links[address.host] = Link(owner)
        return self.links[address.host]

    def begin(self) -> ReplicatedStream:
        node = make_node(self.peers)
        self.own = ReplicaStore()
        self.keepers = ReplicationManager(node, self, self.own, self.wanted)
        stream = self.keepers.open_stream(ReplicatedLog("s", Epoch(1, "i-0"), b"opening"), None)
        stream.deliver = self.client.write
        stream.on_fenced = self._fence
        return stream

    def _fence(self) -> None:
        self.fenced += 1

    def acknowledge(self) -> None:
        for link in self.links.values():
            link.acknowledge()


def write(stream: ReplicatedStream, *events: bytes) -> None:
    for event in events:
        stream.log.lines += event + b"\n"
        stream.write(stream.log.seq + 1, event)


def run_scenario(scenario: Callable[[Stage, ReplicatedStream], Any], peers: int = 2, wanted: int = 2) -> None:
    async def run() -> None:
        played = Stage(peers, wanted)
        running = scenario(played, played.begin())
        if running is not None:
            await running

    asyncio.run(run())


def test_an_event_follows_its_line_at_all_keepers() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one", b"two")
        one, other = stage.links.values()
        assert one.sent[1:] == other.sent[1:] == [(APPEND, b"one\n"), (APPEND, b"two\n")]
        assert one.sent[0][0] == OPEN
        one.acknowledge()
        assert stage.client.sent == []
        other.acknowledge()
        assert stage.client.sent == [b"one", b"two"]

    run_scenario(scenario)


def test_events_acknowledged_together_are_sent_together() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one", b"two")
        for link in stage.links.values():
            link.receipts = link.receipts[-1:]
        stage.acknowledge()
        assert stage.client.sent == [b"onetwo"]

    run_scenario(scenario)


def test_an_event_without_a_line_waits_behind_earlier_ones_and_else_is_sent_at_once() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        stream.write(1, b"behind")
        assert stage.client.sent == []
        stage.acknowledge()
        assert stage.client.answer == b"onebehind"
        stream.write(1, b"[DONE]")
        assert stage.client.answer == b"onebehind[DONE]"

    run_scenario(scenario)


def test_a_stream_that_writes_while_its_node_ends_opens_no_connection() -> None:
    """A replica would hold it for a living owner's, and would not copy the orphan to another node."""

    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.keepers.close()
        stage.links.clear()
        write(stream, b"one")
        assert stage.links == {}

    run_scenario(scenario)


def test_without_keepers_an_event_is_sent_at_once() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        write(stream, b"one", b"two")
        assert stage.client.sent == [b"one", b"two"]

    run_scenario(scenario, peers=0)
    run_scenario(scenario, wanted=0)


def test_a_keeper_that_lags_delays_nothing() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        one, other = stage.links.values()
        one.acknowledge()
        other.lag()
        assert stage.client.sent == [b"one"]

    run_scenario(scenario)


def test_where_all_replicas_lag_an_event_waits_for_the_first_that_has_it() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        lagging = list(stage.links.values())
        for link in lagging:
            link.lag()
        (replacement,) = [link for link in stage.links.values() if link not in lagging]
        assert stage.client.sent == []
        replacement.acknowledge()
        assert stage.client.sent == [b"one"]
        assert stream.log.unreplicated == 0

    run_scenario(scenario, peers=3)


def test_where_no_replica_has_an_event_in_time_it_is_sent_and_counted() -> None:
    async def wait(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        for link in stage.links.values():
            link.lag()
        await asyncio.sleep(MAX_WAIT_S / 2)
        assert stage.client.sent == []
        await asyncio.sleep(MAX_WAIT_S)
        assert stage.client.sent == [b"one"]
        assert stream.log.unreplicated == 1

    async def run() -> None:
        stage = Stage()
        await wait(stage, stage.begin())

    run_virtual(run, sockets=False)


def test_the_last_event_waits_no_longer_where_the_other_replica_is_lost_after_one_was_overdue() -> None:
    async def run() -> None:
        stage = Stage()
        stream = stage.begin()
        stage.acknowledge()
        lagging, lost = stage.links.values()
        write(stream, b"last")
        lagging.lag()
        lost.owner.lost(LinkLossReason.EOF)
        assert stage.client.sent == []
        await asyncio.sleep(2 * MAX_WAIT_S)
        assert stage.client.sent == [b"last"]

    run_virtual(run, sockets=False)


def test_each_wait_for_a_replica_is_as_long_as_the_first() -> None:
    async def run() -> None:
        stage = Stage(peers=1)
        stream = stage.begin()
        stage.acknowledge()
        (link,) = stage.links.values()
        write(stream, b"one")
        link.lag()
        await asyncio.sleep(MAX_WAIT_S * 0.9)
        link.acknowledge()
        write(stream, b"two")
        link.lag()
        await asyncio.sleep(MAX_WAIT_S * 0.9)
        assert stage.client.sent == [b"one"]
        await asyncio.sleep(MAX_WAIT_S)
        assert stage.client.sent == [b"one", b"two"]

    run_virtual(run, sockets=False)


def test_a_keeper_that_lags_is_replaced_at_once() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        first = set(stage.links)
        for link in list(stage.links.values()):
            link.lag()
        assert len(stage.links) == 4
        for name in set(stage.links) - first:
            assert stage.links[name].sent[0][0] == OPEN

    run_scenario(scenario, peers=4)


def test_streams_that_lose_a_replica_are_reconciled_in_turns_and_those_without_any_at_once() -> None:
    async def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        streams = [stage.keepers.open_stream(ReplicatedLog(f"s{n}", Epoch(1, "i-0"), b"h"), None) for n in range(99)]
        stage.acknowledge()
        last = streams[-1].log
        lost, other = last.replicas
        last.lost(other)
        stage.links[lost].owner.lost(LinkLossReason.EOF)
        assert last.replicas, "it had no replica"
        assert any(len(one.log.replicas) == 1 for one in streams)
        for _ in range(10):
            await asyncio.sleep(0)
        assert all(len(one.log.replicas) == 2 for one in streams)

    run_scenario(scenario, peers=3)


def test_a_keeper_that_is_lost_delays_nothing() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        one, other = stage.links.values()
        one.acknowledge()
        other.owner.lost(LinkLossReason.RESET)
        assert stage.client.sent == [b"one"]
        assert b'synkti_keeper_losses_total{why="reset"} 1.0' in stage.keepers.node.metrics.exposition()

    run_scenario(scenario)


def test_after_a_takeover_the_old_owner_delivers_nothing() -> None:
    async def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        draining = asyncio.ensure_future(stream.wait_until_delivered())
        await asyncio.sleep(0)
        next(iter(stage.links.values())).owner.refused(stream.handle, RefusalReason.STALE)
        write(stream, b"two")
        stage.acknowledge()
        with pytest.raises(StaleEpoch):
            await draining
        assert (stage.client.sent, stage.fenced) == ([], 1)

    run_scenario(scenario)


def test_the_end_waits_for_pending_events() -> None:
    async def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        draining = asyncio.ensure_future(stream.wait_until_delivered())
        await asyncio.sleep(0)
        assert not draining.done()
        stage.acknowledge()
        await draining
        assert stage.client.sent == [b"one"]
        stream.close(CloseReason.FINISHED)
        assert [link.sent[-1][0] for link in stage.links.values()] == [FINISH, FINISH]
        assert len(stage.own) == 0, "its keepers have it"

    run_scenario(scenario)


def test_a_journal_whose_client_may_resume_stays_here_and_is_copied_on_evacuation() -> None:
    async def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        stage.acknowledge()
        having = set(stage.links)
        stream.close(CloseReason.MOVED)
        assert len(stage.own) == 1
        going = asyncio.ensure_future(stage.keepers.copier.evacuate(5.0))
        await asyncio.sleep(0)
        (new,) = set(stage.links) - having
        assert stage.links[new].sent[0][0] == OPEN
        assert not going.done(), "it stays until the copy is there"
        stage.acknowledge()
        await going

    run_scenario(scenario, peers=3)


@pytest.mark.parametrize(
    "why", [LinkLossReason.REFUSED, LinkLossReason.EOF, LinkLossReason.TURNED_AWAY, LinkLossReason.BROKEN]
)
@pytest.mark.parametrize("works", [False, True], ids=["at-once", "after-it-worked"])
def test_a_peer_whose_link_ends_at_once_is_not_connected_again_at_once(why: LinkLossReason, works: bool) -> None:
    """That it accepts a connection, and takes the first message, proves nothing: it may do so a thousand times."""

    async def scenario() -> None:
        stage, connects = Stage(peers=2), 0

        def end(link: Link) -> None:
            if works:
                link.acknowledge()
            link.owner.lost(why)

        def connect(address: Address, owner: LinkListener) -> ReplicaLink:
            nonlocal connects
            connects += 1
            link = Link(owner)
            asyncio.get_running_loop().call_soon(end, link)
            return link

        stage.connect = connect  # type: ignore[method-assign] # no replica lasts
        stream = stage.begin()
        write(stream, b"1")
        for _ in range(200):
            await asyncio.sleep(0)
            write(stream, b"2")
        assert connects == 2
        assert stage.client.answer == b"1" + 200 * b"2"  # without a replica it is not held back

    asyncio.run(scenario())


def test_a_link_that_worked_for_some_time_is_opened_again_at_once() -> None:
    async def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        before = dict(stage.links)
        stage.keepers.lost("i-1", LinkLossReason.EOF, worked_s=60.0)
        assert stage.links["i-1"] is not before["i-1"]

    run_scenario(scenario)


def test_a_request_too_large_to_replicate_is_sent_to_no_keeper_and_counted() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.links.clear()
        large = stage.keepers.open_stream(ReplicatedLog("l", Epoch(1, "i-0"), b"o" * (MAX_HEADER_BYTES + 1)), None)
        large.deliver = stage.client.write
        write(large, b"one")
        assert all(link.sent == [] for link in stage.links.values())
        assert (stage.client.sent, large.log.stop_reason) == ([b"one"], StopReason.HEADER_TOO_LARGE)
        assert large.log.unreplicated == 0
        assert b'synkti_streams_unkept_total{why="request-too-large"} 1.0' in stage.keepers.node.metrics.exposition()
        large.close(CloseReason.ABANDONED)
        assert len(stage.own) == 0

    run_scenario(scenario)


def test_a_journal_too_large_for_its_keepers_stops_only_its_own_replication() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        sent_kinds: list[StopReason | None] = []
        stream.on_replication_stopped = lambda: sent_kinds.append(stream.log.stop_reason)
        write(stream, b"one")
        first, second = stage.links.values()
        first.owner.refused(stream.handle, RefusalReason.TOO_LARGE)
        assert sent_kinds == [StopReason.JOURNAL_TOO_LARGE]
        assert second.sent[-1][0] == DROP
        assert stage.client.sent == [b"one"]
        write(stream, b"two")
        second.owner.refused(stream.handle, RefusalReason.TOO_LARGE)
        assert (sent_kinds, stage.client.sent) == ([StopReason.JOURNAL_TOO_LARGE], [b"one", b"two"])

    run_scenario(scenario)


def test_a_full_keeper_is_retried_later_and_one_that_loses_everything_is_not() -> None:
    async def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        full, forgetful = stage.links.values()
        full.owner.refused(stream.handle, RefusalReason.FULL)
        forgetful.acknowledge()
        for _ in range(10):
            forgetful.owner.refused(stream.handle, RefusalReason.GAP)
            forgetful.acknowledge()
        opened = [[kind for kind, _ in link.sent].count(OPEN) for link in (full, forgetful)]
        assert opened == [1, 1 + MAX_REOPENS]
        for _ in range(2 * _RETRY_FULL_EVERY):
            await stage.keepers._reconcile_all()
        assert [[kind for kind, _ in link.sent].count(OPEN) for link in (full, forgetful)] == [2, 1 + MAX_REOPENS]

    run_scenario(scenario)


@pytest.mark.parametrize(
    ("how", "sent_kinds", "kept_here"),
    [
        (CloseReason.FINISHED, (FINISH, 0), 0),
        (CloseReason.ABANDONED, (FINISH, 1), 0),
        (CloseReason.NEVER_ANNOUNCED, (DROP, 0), 0),
        (CloseReason.MOVED, (OPEN, 0), 1),
    ],
)
def test_keepers_get_the_reason_why_a_stream_ends(
    how: CloseReason, sent_kinds: tuple[int, int], kept_here: int
) -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        stream.close(how)
        assert [link.last for link in stage.links.values()] == [sent_kinds, sent_kinds]
        assert len(stage.own) == kept_here

    run_scenario(scenario)
