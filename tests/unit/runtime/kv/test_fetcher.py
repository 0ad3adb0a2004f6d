"""Fetching contexts: the sources and their order, the bounds, and that no failure here fails a request."""

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
        fetched = await contexts(mine, store).fetch(STREAM, IN_S3)
        assert fetched is not None
        assert (fetched.choice.source, fetched.blocks) == (ContextSource.S3, 30)
        assert len(store.batches) == 30
        assert 1 < store.most_at_once <= MAX_CONCURRENCY
        again = await contexts(mine, store).fetch(STREAM, IN_S3)
        assert again is not None
        assert again.choice.reason == "nothing is missing"

    run(story)


def test_after_a_failed_batch_no_other_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "BATCH_BYTES", 2 * SIZE)

    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        store.broken_after = 6
        fetched = await contexts(shelf(tmp_path / "mine"), store).fetch(STREAM, IN_S3)
        assert fetched is not None
        assert fetched.blocks == 6
        assert len(store.batches) <= 6 + MAX_CONCURRENCY

    run(story)


@pytest.mark.parametrize(
    ("source", "state", "is_read"),
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
def test_s3_is_read_only_where_a_node_may_have_uploaded_the_context(
    tmp_path: Path, source: str, state: NodeState, is_read: bool
) -> None:
    async def story() -> None:
        store, node = Store(), make_node(state)
        assert await contexts(shelf(tmp_path), store, node).fetch(STREAM, source) is None
        assert bool(store.lookups) is is_read

    run(story)


def test_only_a_peer_that_is_alive_gets_a_request(tmp_path: Path) -> None:
    async def story() -> None:
        for source, state, requests in (
            ("i-1", NodeState.DRAINING, 1),
            ("i-1", NodeState.GONE, 0),
            ("i-9", NodeState.READY, 0),
        ):
            peers, node = NoPeers(), make_node(state)
            assert await contexts(shelf(tmp_path), None, node, peers).fetch(STREAM, source) is None
            assert peers.requests == [f"10.0.0.2:1 {INDEX_OF}{STREAM}"] * requests

    run(story)


class Talking:
    """A peer with these answers to requests for an index and for blocks."""

    def __init__(self, index: bytes, blocks: bytes, status: int = 200) -> None:
        self._answers = {"GET": index, "POST": blocks}
        self._status = status

    async def open(self, _: Address, method: str, __: str, **___: Any) -> Any:
        answer, status = self._answers[method], self._status

        class Response:
            def __init__(self) -> None:
                self.status = status

            async def read_all(self, most: int) -> bytes:
                if len(answer) > most:
                    raise ExchangeLost(LossReason.TOO_LARGE)
                return answer

            def close(self) -> None:
                """Nothing is open."""

        return Response()


class Several:
    """Peers by their addresses; no other address answers."""

    def __init__(self, peers: dict[str, Talking]) -> None:
        self._peers = peers
        self.requests: list[str] = []

    async def open(self, address: Address, method: str, target: str, **_: Any) -> Any:
        self.requests.append(str(address))
        if str(address) not in self._peers:
            raise ExchangeLost(LossReason.REFUSED)
        return await self._peers[str(address)].open(address, method, target)


@pytest.mark.parametrize("source", ["i-1", "i-2", IN_S3, "i-forgotten"])
def test_the_draining_peer_with_the_most_blocks_is_the_source(tmp_path: Path, source: str) -> None:
    async def story() -> None:
        answering = {}
        for number, blocks in ((2, 5), (3, 20)):
            path = tmp_path / f"{number}"
            lay(path, STREAM, blocks)
            index = await shelf(path).index(STREAM)
            assert index is not None
            data = await shelf(path).read(index.names, 10**9)
            answering[f"10.0.0.{number}:1"] = Talking(index.to_bytes(), data)
        states = {1: NodeState.READY, 2: NodeState.DRAINING, 3: NodeState.DRAINING, 4: NodeState.GONE}
        statuses = [replace(status_of(n, state), peer_address=f"10.0.0.{n}:1") for n, state in states.items()]
        node, peers = lone_node(status_of(0), statuses, lambda: 0.0), Several(answering)
        fetched = await contexts(shelf(tmp_path / "mine"), None, node, peers).fetch(STREAM, source)
        assert fetched is not None
        assert (fetched.choice.source, fetched.blocks) == (ContextSource.PEER, 20)
        named = {"i-1": {"10.0.0.1:1"}}.get(source, set())
        assert set(peers.requests) == {"10.0.0.2:1", "10.0.0.3:1"} | named

    run(story)


def test_only_a_few_of_many_draining_peers_get_a_request(tmp_path: Path) -> None:
    async def story() -> None:
        statuses = [replace(status_of(n, NodeState.DRAINING), peer_address=f"10.0.0.{n}:1") for n in range(1, 30)]
        node, peers = lone_node(status_of(0), statuses, lambda: 0.0), Several({})
        assert await contexts(shelf(tmp_path), None, node, peers).fetch(STREAM, "i-17") is None
        assert len(set(peers.requests)) == len(peers.requests) == MAX_PEERS
        assert "10.0.0.17:1" in peers.requests

    run(story)


def test_a_node_without_blocks_of_its_own_sends_no_request(tmp_path: Path) -> None:
    async def story() -> None:
        store, peers = Store(), NoPeers()
        assert await contexts(None, store, peers=peers).fetch(STREAM, "i-1") is None
        without_layout = LocalBlocks(BlockFolder(tmp_path / "without layout", 10**9))
        assert await contexts(without_layout, store, peers=peers).fetch(STREAM, "i-1") is None
        declined = BlockFolder(tmp_path / "declined", 10**9)
        declined.write_layout({"declined": "made for another vLLM"})
        assert await contexts(LocalBlocks(declined), store, peers=peers).fetch(STREAM, "i-1") is None
        odd = BlockFolder(tmp_path / "odd", 10**9)
        odd.write_layout({"fingerprint": "zz"})
        assert await contexts(LocalBlocks(odd), store, peers=peers).fetch(STREAM, "i-1") is None
        assert await contexts(shelf(tmp_path / "x"), store, peers=peers).fetch("../x", "i-1") is None
        assert not store.lookups
        assert not peers.requests

    run(story)


def test_a_store_that_is_down_or_stuck_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "_S3_INDEX_WITHIN_S", 0.05)

    async def story() -> None:
        down, stuck = Store(), Store()
        down.down = stuck.stuck = True
        assert await contexts(shelf(tmp_path), down).fetch(STREAM, IN_S3) is None
        assert await contexts(shelf(tmp_path), stuck).fetch(STREAM, IN_S3) is None
        assert stuck.lookups == [STREAM]

    run(story)


def test_a_folder_that_hangs_costs_at_most_the_transfer_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "MAX_TRANSFER_S", 0.05)

    async def story() -> None:
        here = shelf(tmp_path)
        monkeypatch.setattr(here, "layout", asyncio.Event().wait)
        fetched = await contexts(here, Store()).fetch(STREAM, IN_S3)
        assert fetched is not None
        assert fetched.choice.source is ContextSource.RECOMPUTE
        assert "no context within" in fetched.choice.reason

    run(story)


QUICK = 2_000.0  # tokens/s: 30 blocks are computed in 0.24 s


def test_a_transfer_slower_than_computing_is_given_up_and_its_blocks_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "BATCH_BYTES", 2 * SIZE)
    monkeypatch.setattr(fetcher, "_ASSUMED", {ContextSource.S3: Rate(0.0, 1e12)})

    async def story() -> None:
        store, mine = Store(), shelf(tmp_path / "mine")
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        store.silent_after = 10
        fetching = contexts(mine, store)
        fetching.prefill_tokens_per_s = QUICK
        async with asyncio.timeout(5):
            fetched = await fetching.fetch(STREAM, IN_S3)
        assert fetched is not None
        assert (fetched.choice.source, fetched.blocks, fetched.timed_out) == (ContextSource.S3, 10, True)
        assert fetched.size >= 10 * SIZE
        index = await store.index(MADE, STREAM)
        assert index is not None
        assert await mine.missing(index) == frozenset(index.names[10:])

    run(story)


def test_a_slow_source_is_not_used_again_until_its_measured_rate_expires(
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
            fetched = await made.fetch(stream, IN_S3)
            assert fetched is not None
            ways.append(fetched.choice.source)
        turned = ways.index(ContextSource.RECOMPUTE)
        assert ways == [ContextSource.S3] * turned + [ContextSource.RECOMPUTE] * (40 - turned)
        clock.now += 1.1 * RATE_LIFETIME_S
        assert made.offer(ContextSource.S3, 1, 1).rate == assumed

    run(story)


def test_a_peer_that_is_cut_off_is_waited_for_until_the_index_timeout(
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


def test_a_context_larger_than_the_folder_is_not_fetched(tmp_path: Path) -> None:
    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        folder = BlockFolder(tmp_path / "mine", 30 * SIZE)
        folder.write_layout({"fingerprint": MADE.hex(), "block_tokens": 16, "shards": 1})
        fetched = await contexts(LocalBlocks(folder), store).fetch(STREAM, IN_S3)
        assert fetched is not None
        assert fetched.choice.source is ContextSource.RECOMPUTE
        assert "more than this node stores" in fetched.choice.reason
        assert not store.batches

    run(story)


def test_the_local_blocks_of_a_context_are_marked_used_before_the_rest_is_fetched(tmp_path: Path) -> None:
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
def test_an_invalid_index_is_no_context(tmp_path: Path, what: str) -> None:
    async def story() -> None:
        peer = Talking(HOSTILE_INDEXES[what], b"")
        assert await contexts(shelf(tmp_path), None, peers=peer).fetch(STREAM, "i-1") is None

    run(story)


@pytest.mark.parametrize(
    "what", ["nothing", "noise", "a header and no end", "another block", "more than was requested"]
)
def test_invalid_blocks_are_not_stored(tmp_path: Path, what: str) -> None:
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
            "more than was requested": first * 4,
        }[what]
        mine = shelf(tmp_path / "mine")
        fetched = await contexts(mine, None, peers=Talking(index.to_bytes(), bytes(blocks))).fetch(STREAM, "i-1")
        assert fetched is not None
        assert fetched.blocks == 0
        assert await mine.missing(index) == frozenset(names)

    run(story)


def test_few_contexts_are_fetched_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        store = Store()
        streams = {f"{number:024x}": 1 for number in range(2 * MAX_CONCURRENT_STREAMS)}
        await in_s3(store, tmp_path / "theirs", streams)
        store.silent = True
        fetching = contexts(shelf(tmp_path / "mine"), store)
        under_way = [asyncio.ensure_future(fetching.fetch(stream, IN_S3)) for stream in streams]
        async with asyncio.timeout(DEADLINE_S):
            while store.at_once < MAX_CONCURRENT_STREAMS or len(store.lookups) < len(streams):  # noqa: ASYNC110 # two conditions
                await asyncio.sleep(0.001)
        for _ in range(100):  # turns in which more would begin
            await asyncio.sleep(0)
        assert store.most_at_once == MAX_CONCURRENT_STREAMS
        for one in under_way:
            one.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    run(story)


def test_blocks_of_another_engine_are_not_stored(tmp_path: Path) -> None:
    async def story() -> None:
        names = lay(tmp_path / "theirs")
        data = memoryview(BlockFolder(tmp_path / "theirs", 10**9).read(names[0]) or b"")
        mine = shelf(tmp_path / "mine")
        assert await mine.store(bytes([1] * 16), [(names[0], data)]) == (0, 0)
        assert await mine.store(MADE, [(names[1], data)]) == (0, 0)
        assert await mine.store(MADE, [(names[0], data), (names[1], data)]) == (1, len(data))

    run(story)
