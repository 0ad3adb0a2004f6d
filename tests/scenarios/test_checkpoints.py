"""Stories of fleets that stop altogether: what a client was reading is left in the checkpoints, and goes on later."""

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

STOP_WITHIN_S = "6"  # clients are told 5 s before the end
MAX_TOKENS = 250

Story = Callable[[LocalFleet, Reader], Awaitable[None]]


async def read_some(fleet: LocalFleet, reader: Reader, kind: str = "chat", **fields: Any) -> None:
    """Read a while, and then until the connection ends: the fleet stops."""
    reading = asyncio.create_task(reader.ask(fleet.nodes[0], kind, max_tokens=MAX_TOKENS, **fields))

    async def some() -> bool:
        return reader.events >= 20

    await eventually("some events came", some)
    for node in fleet.nodes:
        if node.life is not None and not node.life.done():
            node.agent.request_drain()
    await reading


def two_fleets(folder: Path, first: Story, second: Story) -> None:
    """The first has ended, all of it, before the second begins. They have the checkpoints in common."""
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
def test_a_stream_outlives_its_whole_fleet(tmp_path: Path, kind: str) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await read_some(fleet, reader, kind)
        assert reader.error is not None
        assert reader.error["code"] == "handoff"

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        (record,) = fleet.checkpoints.records.values()
        assert record.status is StreamStatus.HANDED_OFF
        assert await reader.come_back(fleet.nodes[1]) == 200
        reader.check_whole(kind)

    two_fleets(tmp_path, first, second)


def test_an_orphan_outlives_the_fleet_too(tmp_path: Path) -> None:
    """The entry dies without a word, and the fleet stops before its client has come back."""

    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await reader.ask(fleet.nodes[0], "chat", until=20, max_tokens=MAX_TOKENS)
        await fleet.nodes[0].crash()

        async def orphaned() -> bool:
            return any(
                journal.orphaned_at is not None
                for node in fleet.nodes[1:]
                for _, journal in node.agent.replication_server.store.unfinished()
            )

        await eventually("its keepers know", orphaned)

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        assert await reader.come_back(fleet.nodes[0]) == 200
        reader.check_whole("chat")

    two_fleets(tmp_path, first, second)


def test_a_stream_that_was_read_to_its_end_leaves_nothing(tmp_path: Path) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await reader.ask(fleet.nodes[0], "chat")
        assert reader.done

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        assert not fleet.checkpoints.objects
        assert await reader.come_back(fleet.nodes[0]) == 404

    two_fleets(tmp_path, first, second)


def test_what_its_client_wants_kept_nowhere_is_left_nowhere(tmp_path: Path) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await read_some(fleet, reader, headers={"x-synkti-durability": "none"})

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        assert not fleet.checkpoints.objects
        assert await reader.come_back(fleet.nodes[0]) == 404

    two_fleets(tmp_path, first, second)


def test_what_is_too_old_damaged_or_not_to_be_had_is_never_gone_on_with(tmp_path: Path) -> None:
    async def first(fleet: LocalFleet, reader: Reader) -> None:
        await read_some(fleet, reader)

    async def second(fleet: LocalFleet, reader: Reader) -> None:
        entry, checkpoints = fleet.nodes[0], fleet.checkpoints
        ((stream, record),) = checkpoints.records.items()
        ((key, body),) = checkpoints.objects.items()
        checkpoints.unavailable = True
        assert (await reader.come_back(entry), code(reader)) == (503, "journal_behind")
        checkpoints.unavailable = False
        checkpoints.records[stream] = replace(record, expires_at=int(time.time()) - 1)
        assert (await reader.come_back(entry), code(reader)) == (410, "stream_expired")
        checkpoints.records[stream] = record
        checkpoints.objects[key] = body[:-9] + b"x" + body[-8:]
        assert (await reader.come_back(entry), code(reader)) == (404, "stream_not_found")
        checkpoints.objects[key] = body[:-9]
        assert (await reader.come_back(entry), code(reader)) == (404, "stream_not_found")
        del checkpoints.objects[key]
        assert (await reader.come_back(entry), code(reader)) == (410, "stream_expired")
        checkpoints.objects[key] = body
        assert await reader.come_back(entry) == 200
        reader.check_whole("chat")

    two_fleets(tmp_path, first, second)


def code(reader: Reader) -> str:
    assert reader.error is not None
    return str(reader.error["code"])
