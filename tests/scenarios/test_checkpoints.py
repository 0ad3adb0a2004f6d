"""Fleets that stop altogether: open streams are stored as checkpoints, and a later fleet continues them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from node_agent.contract.table_schema import StreamStatus
from node_agent.testing.fakes import MemoryCheckpoints
from tests.scenarios.local_fleet import LocalFleet, eventually, local_fleet
from tests.scenarios.test_resume import Reader

STOP_WITHIN_S = "6"  # clients get the error 5 s before the end
MAX_TOKENS = 250

Scenario = Callable[[LocalFleet, Reader], Awaitable[None]]


async def read_some(fleet: LocalFleet, reader: Reader, kind: str = "chat", **fields: Any) -> None:
    """Read 20 events, stop the whole fleet, and read until the connection ends."""
    reading = asyncio.create_task(reader.request(fleet.nodes[0], kind, max_tokens=MAX_TOKENS, **fields))

    async def some() -> bool:
        return reader.events >= 20

    await eventually("20 events arrived", some)
    for node in fleet.nodes:
        if node.life is not None and not node.life.done():
            node.agent.request_drain()
    await reading


def two_fleets(folder: Path, first: Scenario, second: Scenario) -> None:
    """Run two fleets, one after the other, with the same checkpoints and the same client."""
    checkpoints = MemoryCheckpoints()

    async def run() -> None:
        options = {"seconds_per_token": 0.02, "checkpoints": checkpoints, "SYNKTI_TERM_GRACE_S": STOP_WITHIN_S}
        async with local_fleet(folder / "first", **options) as fleet:  # type: ignore[arg-type] # as they are above
            reader = Reader(fleet)
            await first(fleet, reader)
        async with local_fleet(folder / "second", 2, **options) as fleet:  # type: ignore[arg-type]
            reader.fleet = fleet
            await second(fleet, reader)

    uvloop.run(run())


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_a_stream_survives_the_stop_of_its_whole_fleet(tmp_path: Path, kind: str) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await read_some(fleet, reader, kind)
        assert reader.error is not None
        assert reader.error["code"] == "handoff"

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        (record,) = fleet.checkpoints.records.values()
        assert record.status is StreamStatus.HANDED_OFF
        assert await reader.resume(fleet.nodes[1]) == 200
        reader.check_whole(kind)

    two_fleets(tmp_path, first, second)


def test_an_orphaned_stream_survives_the_stop_of_its_whole_fleet(tmp_path: Path) -> None:
    """The entry crashes, and the fleet stops before the client resumes."""

    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await reader.request(fleet.nodes[0], "chat", until=20, max_tokens=MAX_TOKENS)
        await fleet.nodes[0].crash()

        async def orphaned() -> bool:
            return any(
                journal.orphaned_at is not None
                for node in fleet.nodes[1:]
                for _, journal in node.agent.parts.replication.server.store.unfinished()
            )

        await eventually("a replica is marked as orphaned", orphaned)

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        assert await reader.resume(fleet.nodes[0]) == 200
        reader.check_whole("chat")

    two_fleets(tmp_path, first, second)


def test_a_stream_read_to_its_end_leaves_no_checkpoint(tmp_path: Path) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await reader.request(fleet.nodes[0], "chat")
        assert reader.done

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        assert not fleet.checkpoints.objects
        assert await reader.resume(fleet.nodes[0]) == 404

    two_fleets(tmp_path, first, second)


def test_a_stream_with_durability_none_leaves_no_checkpoint(tmp_path: Path) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await read_some(fleet, reader, headers={"x-synkti-durability": "none"})

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        assert not fleet.checkpoints.objects
        assert await reader.resume(fleet.nodes[0]) == 404

    two_fleets(tmp_path, first, second)


def test_an_expired_damaged_or_unavailable_checkpoint_is_not_continued(tmp_path: Path) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await read_some(fleet, reader)

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        entry, checkpoints = fleet.nodes[0], fleet.checkpoints
        ((stream, record),) = checkpoints.records.items()
        ((key, body),) = checkpoints.objects.items()
        checkpoints.unavailable = True
        assert (await reader.resume(entry), code(reader)) == (503, "journal_behind")
        checkpoints.unavailable = False
        checkpoints.records[stream] = replace(record, expires_at=int(time.time()) - 1)
        assert (await reader.resume(entry), code(reader)) == (410, "stream_expired")
        checkpoints.records[stream] = record
        checkpoints.objects[key] = body[:-9] + b"x" + body[-8:]
        assert (await reader.resume(entry), code(reader)) == (404, "stream_not_found")
        checkpoints.objects[key] = body[:-9]
        assert (await reader.resume(entry), code(reader)) == (404, "stream_not_found")
        del checkpoints.objects[key]
        assert (await reader.resume(entry), code(reader)) == (410, "stream_expired")
        checkpoints.objects[key] = body
        assert await reader.resume(entry) == 200
        reader.check_whole("chat")

    two_fleets(tmp_path, first, second)


def code(reader: Reader) -> str:
    assert reader.error is not None
    return str(reader.error["code"])
