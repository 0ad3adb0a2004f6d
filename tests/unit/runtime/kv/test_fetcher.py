"""Bringing contexts: who is asked for what, the bounds, and that nothing of it fails a request."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local.lone_node import lone_node
from node_agent.contract.names import IN_S3
from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.core.kv.index import Batch, Index
from node_agent.core.kv.transfer_policy import ContextSource, Rate
from node_agent.kv.folder import BlockFolder
from node_agent.ports import ExchangeLost
from node_agent.runtime.kv import fetcher
from node_agent.runtime.kv.fetcher import (
    MAX_CONCURRENCY,
    MAX_CONCURRENT_STREAMS,
    MAX_PEERS,
    RATE_LIFETIME_S,
    ContextFetcher,
)
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.server import INDEX_OF
from node_agent.testing.fakes import MemoryBlockStore
from tests.unit.runtime.a_node import status_of
from tests.unit.runtime.kv.kv_stage import (
    MADE,
    SIZE,
    STREAM,
    Clock,
    NoPeers,
    Store,
    contexts,
    in_s3,
    lay,
    make_node,
    run,
    shelf,
)

DEADLINE_S = 60.0


def test_a_context_comes_from_s3_in_batches_a_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "BATCH_BYTES", 2 * SIZE)

    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        mine = shelf(tmp_path / "mine")
        brought = await contexts(mine, store).fetch(STREAM, IN_S3)
        assert brought is not None
        assert (brought.choice.source, brought.blocks) == (ContextSource.S3, 30)
        assert len(store.batches) == 30
        assert 1 < store.most_at_once <= MAX_CONCURRENCY
        again = await contexts(mine, store).fetch(STREAM, IN_S3)
        assert again is not None
        assert again.choice.reason == "nothing is missing"

    run(story)


def test_after_a_batch_that_failed_no_other_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "BATCH_BYTES", 2 * SIZE)

    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        store.broken_after = 6
        brought = await contexts(shelf(tmp_path / "mine"), store).fetch(STREAM, IN_S3)
        assert brought is not None
        assert brought.blocks == 6
        assert len(store.batches) <= 6 + MAX_CONCURRENCY

    run(story)


@pytest.mark.parametrize(
    ("source", "state", "asks"),
    [
        (IN_S3, NodeState.READY, True),
        ("i-1", NodeState.DRAINING, True),
        ("i-1", NodeState.GONE, True),
        ("i-1", NodeState.READY, False),
        ("i-1", NodeState.STARTING, False),
        ("i-forgotten", NodeState.READY, True),
        ("i-0", NodeState.DRAINING, False),
    ],
)
def test_s3_is_asked_only_where_somebody_may_have_left_something(
    tmp_path: Path, source: str, state: NodeState, asks: bool
) -> None:
    async def story() -> None:
        store, node = Store(), make_node(state)
        assert await contexts(shelf(tmp_path), store, node).fetch(STREAM, source) is None
        assert bool(store.asked) is asks

    run(story)


def test_only_a_peer_that_is_alive_is_asked(tmp_path: Path) -> None:
    async def story() -> None:
        for source, state, asked in (
            ("i-1", NodeState.DRAINING, 1),
            ("i-1", NodeState.GONE, 0),
            ("i-9", NodeState.READY, 0),
        ):
            peers, node = NoPeers(), make_node(state)
            assert await contexts(shelf(tmp_path), None, node, peers).fetch(STREAM, source) is None
            assert peers.asked == [f"10.0.0.2:1 {INDEX_OF}{STREAM}"] * asked

    run(story)


class Talking:
    """A peer that says this of a stream, and this of its blocks."""

    def __init__(self, index: bytes, blocks: bytes, status: int = 200) -> None:
        self._told = {"GET": index, "POST": blocks}
        self._status = status

    async def open(self, _: Address, method: str, __: str, **___: Any) -> Any:
        told, status = self._told[method], self._status

        class Said:
            def __init__(self) -> None:
                self.status = status

            async def read_all(self, most: int) -> bytes:
                if len(told) > most:
                    raise ExchangeLost(LossReason.TOO_LARGE)
                return told

            def close(self) -> None:
                """Nothing is open."""

        return Said()


class Several:
    """Peers by their addresses; nobody else answers."""

    def __init__(self, peers: dict[str, Talking]) -> None:
        self._peers = peers
        self.asked: list[str] = []

    async def open(self, address: Address, method: str, target: str, **_: Any) -> Any:
        self.asked.append(str(address))
        if str(address) not in self._peers:
            raise ExchangeLost(LossReason.REFUSED)
        return await self._peers[str(address)].open(address, method, target)


@pytest.mark.parametrize("source", ["i-1", "i-2", IN_S3, "i-forgotten"])
def test_of_those_that_drain_whoever_has_most_gives_it_also_where_another_was_lost_last(
    tmp_path: Path, source: str
) -> None:
    async def story() -> None:
        told = {}
        for number, blocks in ((2, 5), (3, 20)):
            path = tmp_path / f"{number}"
            lay(path, STREAM, blocks)
            index = await shelf(path).index(STREAM)
            assert index is not None
            data = await shelf(path).read(index.names, 10**9)
            told[f"10.0.0.{number}:1"] = Talking(index.to_bytes(), data)
        states = {1: NodeState.READY, 2: NodeState.DRAINING, 3: NodeState.DRAINING, 4: NodeState.GONE}
        statuses = [replace(status_of(n, state), peer_address=f"10.0.0.{n}:1") for n, state in states.items()]
        node, peers = lone_node(status_of(0), statuses, lambda: 0.0), Several(told)
        brought = await contexts(shelf(tmp_path / "mine"), None, node, peers).fetch(STREAM, source)
        assert brought is not None
        assert (brought.choice.source, brought.blocks) == (ContextSource.PEER, 20)
        named = {"i-1": {"10.0.0.1:1"}}.get(source, set())
        assert set(peers.asked) == {"10.0.0.2:1", "10.0.0.3:1"} | named

    run(story)


def test_of_many_that_drain_few_are_asked(tmp_path: Path) -> None:
    async def story() -> None:
        statuses = [replace(status_of(n, NodeState.DRAINING), peer_address=f"10.0.0.{n}:1") for n in range(1, 30)]
        node, peers = lone_node(status_of(0), statuses, lambda: 0.0), Several({})
        assert await contexts(shelf(tmp_path), None, node, peers).fetch(STREAM, "i-17") is None
        assert len(set(peers.asked)) == len(peers.asked) == MAX_PEERS
        assert "10.0.0.17:1" in peers.asked

    run(story)


def test_without_blocks_of_its_own_a_node_asks_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        store, peers = Store(), NoPeers()
        assert await contexts(None, store, peers=peers).fetch(STREAM, "i-1") is None
        silent = LocalBlocks(BlockFolder(tmp_path / "nothing said", 10**9))
        assert await contexts(silent, store, peers=peers).fetch(STREAM, "i-1") is None
        declined = BlockFolder(tmp_path / "declined", 10**9)
        declined.write_layout({"declined": "made for another vLLM"})
        assert await contexts(LocalBlocks(declined), store, peers=peers).fetch(STREAM, "i-1") is None
        odd = BlockFolder(tmp_path / "odd", 10**9)
        odd.write_layout({"fingerprint": "zz"})
        assert await contexts(LocalBlocks(odd), store, peers=peers).fetch(STREAM, "i-1") is None
        assert await contexts(shelf(tmp_path / "x"), store, peers=peers).fetch("../x", "i-1") is None
        assert not store.asked
        assert not peers.asked

    run(story)


def test_a_store_that_is_down_or_stuck_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "_S3_INDEX_WITHIN_S", 0.05)

    async def story() -> None:
        down, stuck = Store(), Store()
        down.down = stuck.stuck = True
        assert await contexts(shelf(tmp_path), down).fetch(STREAM, IN_S3) is None
        assert await contexts(shelf(tmp_path), stuck).fetch(STREAM, IN_S3) is None
        assert stuck.asked == [STREAM]

    run(story)


def test_a_folder_that_hangs_costs_no_more_than_any_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MAX_TRANSFER_S", 0.05)

    async def story() -> None:
        here = shelf(tmp_path)
        monkeypatch.setattr(here, "layout", asyncio.Event().wait)
        brought = await contexts(here, Store()).fetch(STREAM, IN_S3)
        assert brought is not None
        assert brought.choice.source is ContextSource.RECOMPUTE
        assert "no context within" in brought.choice.reason

    run(story)


QUICK = 2_000.0  # tokens/s: 30 blocks are computed in 0.24 s


def test_a_transfer_that_takes_longer_than_computing_is_given_up_and_what_came_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "BATCH_BYTES", 2 * SIZE)
    monkeypatch.setattr(fetcher, "_ASSUMED", {ContextSource.S3: Rate(0.0, 1e12)})

    async def story() -> None:
        store, mine = Store(), shelf(tmp_path / "mine")
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        store.silent_after = 10
        bringing = contexts(mine, store)
        bringing.prefill_tokens_per_s = QUICK
        async with asyncio.timeout(5):
            brought = await bringing.fetch(STREAM, IN_S3)
        assert brought is not None
        assert (brought.choice.source, brought.blocks, brought.timed_out) == (ContextSource.S3, 10, True)
        assert brought.size >= 10 * SIZE
        index = await store.index(MADE, STREAM)
        assert index is not None
        assert await mine.missing(index) == frozenset(index.names[10:])

    run(story)


def test_a_way_that_was_slow_is_not_taken_again_and_tried_anew_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assumed = Rate(0.0, 1e9)
    monkeypatch.setattr(fetcher, "_ASSUMED", {ContextSource.S3: assumed})

    async def story() -> None:
        clock, store = Clock(), Store()
        streams = {f"{number:024x}": 20 for number in range(40)}
        await in_s3(store, tmp_path / "theirs", streams)

        async def slow(index: Index, batch: Batch) -> bytes:
            clock.now += 1.0
            return await MemoryBlockStore.fetch(store, index, batch)

        monkeypatch.setattr(store, "fetch", slow)
        made = ContextFetcher(make_node(), NoPeers(), b"key", shelf(tmp_path / "mine"), store, clock)  # type: ignore[arg-type]
        made.prefill_tokens_per_s = 1_000.0
        ways = []
        for stream in streams:
            brought = await made.fetch(stream, IN_S3)
            assert brought is not None
            ways.append(brought.choice.source)
        turned = ways.index(ContextSource.RECOMPUTE)
        assert ways == [ContextSource.S3] * turned + [ContextSource.RECOMPUTE] * (40 - turned)
        clock.now += 1.1 * RATE_LIFETIME_S
        assert made.offer(ContextSource.S3, 1, 1).rate == assumed

    run(story)


def test_a_peer_that_was_cut_off_is_waited_for_as_long_as_an_index_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "_INDEX_WITHIN_S", 0.05)

    class CutOff:
        async def open(self, *_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

    async def story() -> None:
        async with asyncio.timeout(5):
            assert await contexts(shelf(tmp_path), None, peers=CutOff()).fetch(STREAM, "i-1") is None

    run(story)


def test_a_context_for_which_there_is_no_room_is_not_fetched(tmp_path: Path) -> None:
    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        folder = BlockFolder(tmp_path / "mine", 30 * SIZE)
        folder.write_layout({"fingerprint": MADE.hex(), "block_tokens": 16, "shards": 1})
        brought = await contexts(LocalBlocks(folder), store).fetch(STREAM, IN_S3)
        assert brought is not None
        assert brought.choice.source is ContextSource.RECOMPUTE
        assert "more than this node stores" in brought.choice.reason
        assert not store.batches

    run(story)


def test_what_is_here_of_a_context_does_not_go_for_the_rest_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        names = lay(tmp_path)
        here = shelf(tmp_path)
        folder = BlockFolder(tmp_path, 10**9)
        for name in names:
            os.utime(folder.path(name), (1.0, 1.0))
        index = await here.index(STREAM)
        assert index is not None
        folder.remove(names[-1])
        assert await here.missing(index) == {names[-1]}
        assert all(folder.path(name).stat().st_mtime > 1.0 for name in names[:-1])

    run(story)


HOSTILE_INDEXES = {
    "nothing": b"",
    "no JSON": b"\xff\x00<html>",
    "null": b"null",
    "a list": b"[1,2,3]",
    "no fingerprint": b'{"names":[],"sizes":[],"object":""}',
    "names of another kind": b'{"fingerprint":"%s","names":[1],"sizes":[200],"object":""}' % (b"00" * 16),
    "a path": b'{"fingerprint":"%s","names":["../../x.kv"],"sizes":[200],"object":""}' % (b"00" * 16),
    "a negative size": b'{"fingerprint":"%s","names":["%s.kv"],"sizes":[-1],"object":""}' % (b"00" * 16, b"0" * 64),
    "a size beyond any": b'{"fingerprint":"%s","names":["%s.kv"],"sizes":[1e18],"object":""}' % (b"00" * 16, b"0" * 64),
}


@pytest.mark.parametrize("what", HOSTILE_INDEXES)
def test_an_index_that_is_none_is_nobodys_context(tmp_path: Path, what: str) -> None:
    async def story() -> None:
        peer = Talking(HOSTILE_INDEXES[what], b"")
        assert await contexts(shelf(tmp_path), None, peers=peer).fetch(STREAM, "i-1") is None

    run(story)


@pytest.mark.parametrize(
    "what", ["nothing", "noise", "a header and no end", "another block", "more than was asked for"]
)
def test_blocks_that_are_none_are_not_kept(tmp_path: Path, what: str) -> None:
    async def story() -> None:
        names = lay(tmp_path / "theirs", blocks=3)
        theirs = shelf(tmp_path / "theirs")
        index = await theirs.index(STREAM)
        assert index is not None
        first, second = (theirs.read_one(name) or b"" for name in names[:2])
        blocks = {
            "nothing": b"",
            "noise": bytes(range(256)) * 100,
            "a header and no end": first[:-1],
            "another block": second + first,
            "more than was asked for": first * 4,
        }[what]
        mine = shelf(tmp_path / "mine")
        brought = await contexts(mine, None, peers=Talking(index.to_bytes(), bytes(blocks))).fetch(STREAM, "i-1")
        assert brought is not None
        assert brought.blocks == 0
        assert await mine.missing(index) == frozenset(names)

    run(story)


def test_few_contexts_are_brought_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        store = Store()
        streams = {f"{number:024x}": 1 for number in range(2 * MAX_CONCURRENT_STREAMS)}
        await in_s3(store, tmp_path / "theirs", streams)
        store.silent = True
        fetching = contexts(shelf(tmp_path / "mine"), store)
        under_way = [asyncio.ensure_future(fetching.fetch(stream, IN_S3)) for stream in streams]
        async with asyncio.timeout(DEADLINE_S):
            while store.at_once < MAX_CONCURRENT_STREAMS or len(store.asked) < len(streams):  # noqa: ASYNC110 # two conditions
                await asyncio.sleep(0.001)
        for _ in range(100):  # turns in which more would begin
            await asyncio.sleep(0)
        assert store.most_at_once == MAX_CONCURRENT_STREAMS
        for one in under_way:
            one.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    run(story)


def test_what_came_of_another_engine_is_not_kept(tmp_path: Path) -> None:
    async def story() -> None:
        names = lay(tmp_path / "theirs")
        data = memoryview(BlockFolder(tmp_path / "theirs", 10**9).read(names[0]) or b"")
        mine = shelf(tmp_path / "mine")
        assert await mine.store(bytes([1] * 16), [(names[0], data)]) == (0, 0)
        assert await mine.store(MADE, [(names[1], data)]) == (0, 0)
        assert await mine.store(MADE, [(names[0], data), (names[1], data)]) == (1, len(data))

    run(story)
