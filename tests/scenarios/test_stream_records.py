"""Entries that are lost: the Lambda orphans their streams by the table, and clients resume them by it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop

from lambdas.adapters.memory import MemoryStreams
from lambdas.stream_events import handle_streams
from node_agent.contract.aws_events import StateChange
from node_agent.contract.table_schema import StreamStatus
from node_agent.core.replication import owned_streams
from node_agent.testing.fakes import MemoryStreamRecords
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually, local_fleet
from tests.scenarios.test_resume import Reader

EVERY_S = 0.2


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned_streams, "WRITE_EVERY_S", EVERY_S)


def as_lambda_sees(records: MemoryStreamRecords) -> MemoryStreams:
    """Return the same table for a Lambda."""
    table = MemoryStreams()
    table.open, table.owned = records.open, records.owned
    return table


async def recorded(fleet: LocalFleet, node: LocalNode, reader: Reader) -> None:
    async def is_recorded() -> bool:
        record = fleet.stream_records.open.get(node.instance_id)
        return record is not None and any(
            each.stream == reader.stream and each.replicas and each.seq for each in record.streams
        )

    await eventually("the stream is in the entry's record", is_recorded)


async def has_status(fleet: LocalFleet, stream: str, status: StreamStatus) -> None:
    async def reached() -> bool:
        held = fleet.stream_records.owned.get(stream)
        return held is not None and held.status is status

    await eventually(f"the stream is {status}", reached)


def terminate(records: MemoryStreamRecords, node: LocalNode) -> int:
    """Deliver EC2's event that the instance is terminated. Returns the number of streams that it orphaned."""
    event = StateChange("e", node.instance_id, time.time(), "terminated")
    return handle_streams(event, as_lambda_sees(records), time.time()).orphaned


async def read_some(fleet: LocalFleet, reader: Reader) -> None:
    """Read 20 events at the first node, until it is killed with the stream in its record."""
    entry = fleet.nodes[0]
    reading = asyncio.create_task(reader.request(entry, "chat"))

    async def some() -> bool:
        return reader.events >= 20

    await eventually("20 events arrived", some)
    await recorded(fleet, entry, reader)
    await entry.crash()
    await reading
    assert not reader.done


def test_a_stream_of_a_lost_entry_is_orphaned_resumed_and_closed(tmp_path: Path) -> None:
    async def run() -> None:
        async with local_fleet(tmp_path, seconds_per_token=0.02) as fleet:
            reader = Reader(fleet)
            await read_some(fleet, reader)
            assert terminate(fleet.stream_records, fleet.nodes[0]) == 1
            assert fleet.stream_records.owned[reader.stream].status is StreamStatus.ORPHANED
            assert await reader.resume(fleet.nodes[1]) == 200
            reader.check_whole("chat")
            await has_status(fleet, reader.stream, StreamStatus.CLOSED)
            held = fleet.stream_records.owned[reader.stream]
            assert held.instance_id == fleet.nodes[1].instance_id
            assert terminate(fleet.stream_records, fleet.nodes[0]) == 0, "the same event, late"
            assert fleet.stream_records.owned[reader.stream] == held

    uvloop.run(run())


async def vouch(*fleets: LocalFleet) -> None:
    """Have EC2 vouch for the nodes of each fleet to those of the others; gossip still does not lead to them."""
    listed = [node for fleet in fleets for node in await fleet.instances.nodes("synkti")]
    for fleet in fleets:
        for node in fleet.nodes:
            vouched: Any = node.agent.parts.membership.peer_keys
            vouched.update(listed, is_complete=False)


def test_a_node_that_gossip_does_not_lead_to_the_replicas_finds_them_in_the_table(tmp_path: Path) -> None:
    """Two fleets that do not know each other stand for one whose views differ; they share the table."""

    async def run() -> None:
        async with (
            local_fleet(tmp_path / "one", seconds_per_token=0.02) as fleet,
            local_fleet(tmp_path / "other", 1, stream_records=fleet.stream_records, first=8) as other,
        ):
            await vouch(fleet, other)
            reader = Reader(fleet)
            await read_some(fleet, reader)
            assert await reader.resume(other.nodes[0]) == 404, "without a record nothing leads there"
            assert terminate(fleet.stream_records, fleet.nodes[0]) == 1
            assert await reader.resume(other.nodes[0]) == 200
            reader.check_whole("chat")

    uvloop.run(run())


def test_a_drained_entry_writes_that_its_stream_is_handed_off_and_no_event_orphans_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the change of its state and its end causes these writes: the interval is ten minutes."""
    monkeypatch.setattr(owned_streams, "WRITE_EVERY_S", 600.0)

    async def run() -> None:
        async with local_fleet(tmp_path, seconds_per_token=0.05, SYNKTI_TERM_GRACE_S="6") as fleet:
            reader, entry = Reader(fleet), fleet.nodes[0]
            reading = asyncio.create_task(reader.request(entry, "chat", max_tokens=250))
            await eventually("events arrived", lambda: _more_than(reader, 5))
            entry.agent.request_drain()
            await recorded(fleet, entry, reader)
            await reading
            assert entry.life is not None
            await entry.life
            assert fleet.stream_records.owned[reader.stream].status is StreamStatus.HANDED_OFF
            assert fleet.stream_records.open[entry.instance_id].streams == ()
            assert terminate(fleet.stream_records, entry) == 0

    uvloop.run(run())


def test_a_stream_that_ended_after_the_last_write_is_closed_by_its_replicas(tmp_path: Path) -> None:
    async def run() -> None:
        async with local_fleet(tmp_path, seconds_per_token=0.05) as fleet:
            reader, entry = Reader(fleet), fleet.nodes[0]
            reading = asyncio.create_task(reader.request(entry, "chat"))
            await recorded(fleet, entry, reader)
            last_write = fleet.stream_records.open[entry.instance_id]
            reading.cancel()  # the client leaves: its stream is abandoned

            async def ended() -> bool:
                stores = [node.agent.parts.replication.server.store for node in fleet.nodes[1:]]
                return all(any(name == reader.stream for name, _ in store.ended()) for store in stores)

            await eventually("the replicas have its end", ended)
            await entry.crash()
            fleet.stream_records.open[entry.instance_id] = last_write  # as if there had been no write since
            assert terminate(fleet.stream_records, entry) == 1
            await has_status(fleet, reader.stream, StreamStatus.CLOSED)
            assert terminate(fleet.stream_records, entry) == 0

    uvloop.run(run())


async def _more_than(reader: Reader, events: int) -> bool:
    return reader.events > events
