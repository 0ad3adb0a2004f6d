"""Test which replicas a stream has: when one is replaced, connected again, or not used at all."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.core.common.address import Address
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.protocol import DROP, FINISH, OPEN
from node_agent.core.replication.refusal import RefusalReason
from node_agent.core.replication.replica_store import MAX_HEADER_BYTES
from node_agent.core.replication.replicated_log import (
    MAX_REOPENS,
    CloseReason,
    ReplicatedLog,
    StopReason,
)
from node_agent.ports import LinkListener, ReplicaLink
from node_agent.runtime.replication.manager import _RETRY_FULL_EVERY
from node_agent.runtime.replication.replicated_stream import ReplicatedStream
from tests.unit.runtime.replication.replica_stage import Link, Stage, run_scenario, write


def test_a_replica_that_lags_is_replaced_at_once() -> None:
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
        streams = [stage.manager.open_stream(ReplicatedLog(f"s{n}", Epoch(1, "i-0"), b"h"), None) for n in range(99)]
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


def test_a_replica_that_is_lost_delays_nothing() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        one, other = stage.links.values()
        one.acknowledge()
        other.owner.lost(LinkLossReason.RESET)
        assert stage.client.sent == [b"one"]
        assert b'synkti_replica_losses_total{reason="reset"} 1.0' in stage.manager.node.metrics.exposition()

    run_scenario(scenario)


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
        stage.manager.lost("i-1", LinkLossReason.EOF, worked_s=60.0)
        assert stage.links["i-1"] is not before["i-1"]

    run_scenario(scenario)


def test_a_request_too_large_to_replicate_is_sent_to_no_replica_and_counted() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.links.clear()
        large = stage.manager.open_stream(ReplicatedLog("l", Epoch(1, "i-0"), b"o" * (MAX_HEADER_BYTES + 1)), None)
        large.deliver = stage.client.write
        write(large, b"one")
        assert all(link.sent == [] for link in stage.links.values())
        assert (stage.client.sent, large.log.stop_reason) == ([b"one"], StopReason.HEADER_TOO_LARGE)
        assert large.log.unreplicated == 0
        assert (
            b'synkti_streams_unreplicated_total{reason="request-too-large"} 1.0'
            in stage.manager.node.metrics.exposition()
        )
        large.close(CloseReason.ABANDONED)
        assert len(stage.own) == 0

    run_scenario(scenario)


def test_a_journal_too_large_for_its_replicas_stops_only_its_own_replication() -> None:
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


def test_a_full_replica_is_retried_later_and_one_that_loses_everything_is_not() -> None:
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
            await stage.manager._reconcile_all()
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
def test_replicas_get_the_reason_why_a_stream_ends(
    how: CloseReason, sent_kinds: tuple[int, int], kept_here: int
) -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        stream.close(how)
        assert [link.last for link in stage.links.values()] == [sent_kinds, sent_kinds]
        assert len(stage.own) == kept_here

    run_scenario(scenario)
