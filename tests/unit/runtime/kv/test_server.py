"""The block server: its bounds, and the index of a stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from node_agent.core.kv.blocks import chain, chain_root
from node_agent.kv.folder import BlockFolder
from node_agent.runtime.kv.server import BLOCKS, INDEX_OF, MAX_CONCURRENCY, TRANSFER_TIMEOUT_S, BlockServer
from node_agent.testing.fake_requests import MemoryRequest
from tests.scenarios.local_fleet import eventually
from tests.unit.runtime.kv.kv_stage import (
    MADE,
    SIZE,
    STREAM,
    Clock,
    lay,
    run,
    shelf,
)


def test_the_server_waits_for_announced_transfers_a_bounded_time(tmp_path: Path) -> None:
    async def story() -> None:
        clock = Clock()
        door = BlockServer(shelf(tmp_path), clock)
        names = lay(tmp_path)
        door.handed_off([STREAM, "cd" * 12, "not a stream"])
        assert door.pending_transfers() == 2
        await door.answer(nobodys := MemoryRequest(target=INDEX_OF + "cd" * 12))
        assert (nobodys.status, door.pending_transfers()) == (404, 1), "nothing to come for"
        clock.now += 0.9 * TRANSFER_TIMEOUT_S
        await door.answer(MemoryRequest(target=INDEX_OF + STREAM))
        clock.now += 0.9 * TRANSFER_TIMEOUT_S
        body = f'["{names[0]}"]'.encode()
        await door.answer(came := MemoryRequest("POST", BLOCKS, body=body))
        assert len(came.answer) > SIZE
        assert door.pending_transfers() == 1
        clock.now += 1.1 * TRANSFER_TIMEOUT_S
        assert door.pending_transfers() == 0

    run(story)


def test_an_answer_is_bounded_but_never_empty_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.runtime.kv.server.BATCH_BYTES", SIZE // 2)

    async def story() -> None:
        door, names = BlockServer(shelf(tmp_path), Clock()), lay(tmp_path)
        body = f'["{names[0]}","{names[1]}"]'.encode()
        await door.answer(request := MemoryRequest("POST", BLOCKS, body=body))
        assert SIZE < len(request.answer) < 2 * SIZE

    run(story)


class Lagging(MemoryRequest):
    """Of a peer that takes nothing."""

    def write(self, data: bytes) -> None:
        super().write(data)
        self.set_congested(True)


def test_a_peer_that_does_not_read_its_blocks_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.runtime.kv.server.SEND_TIMEOUT_S", 0.05)

    async def story() -> None:
        door, names = BlockServer(shelf(tmp_path), Clock()), lay(tmp_path)
        body = f'["{names[0]}"]'.encode()
        await door.answer(request := Lagging("POST", BLOCKS, body=body))
        assert len(request.answer) > SIZE
        assert not request.is_ended, "its connection is broken off"
        answering = asyncio.create_task(door.answer(slow := Lagging("POST", BLOCKS, body=body)))

        async def written() -> bool:
            return bool(slow.sent)

        await eventually("it was written", written)
        slow.set_congested(False)
        await answering
        assert slow.is_ended

    run(story)


def test_few_answers_are_in_memory_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        door, names = BlockServer(shelf(tmp_path), Clock()), lay(tmp_path)
        body = f'["{names[0]}"]'.encode()
        requests = [Lagging("POST", BLOCKS, body=body) for _ in range(2 * MAX_CONCURRENCY)]
        asking = [asyncio.create_task(door.answer(request)) for request in requests]

        async def full() -> bool:
            return sum(bool(request.sent) for request in requests) >= MAX_CONCURRENCY

        await eventually("as many as may be are being answered", full)
        assert sum(bool(request.sent) for request in requests) == MAX_CONCURRENCY
        requests[0].disconnect()
        await asking[0]
        assert not requests[0].is_ended
        for request in requests:
            request.set_congested(False)

        async def all_are() -> bool:
            for request in requests:
                request.set_congested(False)
            return all(request.is_ended for request in requests[1:])

        await eventually("all others have theirs", all_are)
        await asyncio.gather(*asking)

    run(story)


def test_the_index_of_a_stream_of_several_choices_is_its_longest(tmp_path: Path) -> None:
    async def story() -> None:
        here = shelf(tmp_path)
        short = lay(tmp_path, STREAM, 4)
        folder = BlockFolder(tmp_path, 10**9)
        keys = chain(chain_root(MADE, STREAM), range(30 * 16), 16)
        folder.append_last_blocks({f"cmpl-{STREAM}-1": keys[1]})
        index = await here.index(STREAM)
        assert index is not None
        assert list(index.names) == short
        assert replace(index, names=(), sizes=()).size == 0

    run(story)
