"""Test when a client is sent its events: after their records are replicated, in order, and all of them."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.contract.errors import StaleEpoch
from node_agent.core.replication.link_loss import LinkLossReason
from node_agent.core.replication.protocol import APPEND, FINISH, OPEN
from node_agent.core.replication.refusal import RefusalReason
from node_agent.core.replication.replicated_log import (
    CloseReason,
)
from node_agent.runtime.replication.replicated_stream import MAX_WAIT_S, ReplicatedStream
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.replication.replica_stage import Stage, run_scenario, write


def test_an_event_follows_its_line_at_all_replicas() -> None:
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
        stage.manager.close()
        stage.links.clear()
        write(stream, b"one")
        assert stage.links == {}

    run_scenario(scenario)


def test_without_replicas_an_event_is_sent_at_once() -> None:
    def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        write(stream, b"one", b"two")
        assert stage.client.sent == [b"one", b"two"]

    run_scenario(scenario, peers=0)
    run_scenario(scenario, wanted=0)


def test_a_replica_that_lags_delays_nothing() -> None:
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
        assert len(stage.own) == 0, "its replicas have it"

    run_scenario(scenario)


def test_a_journal_whose_client_may_resume_stays_here_and_is_copied_on_evacuation() -> None:
    async def scenario(stage: Stage, stream: ReplicatedStream) -> None:
        stage.acknowledge()
        write(stream, b"one")
        stage.acknowledge()
        having = set(stage.links)
        stream.close(CloseReason.MOVED)
        assert len(stage.own) == 1
        going = asyncio.ensure_future(stage.manager.copier.evacuate(5.0))
        await asyncio.sleep(0)
        (new,) = set(stage.links) - having
        assert stage.links[new].sent[0][0] == OPEN
        assert not going.done(), "it stays until the copy is there"
        stage.acknowledge()
        await going

    run_scenario(scenario, peers=3)
