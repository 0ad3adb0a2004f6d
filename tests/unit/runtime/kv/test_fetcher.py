"""Fetching contexts: when it is worth it, its bounds, and that no failure here fails a request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from node_agent.contract.names import IN_S3
from node_agent.core.kv.index import Batch, Index
from node_agent.core.kv.transfer_policy import ContextSource, Rate
from node_agent.core.kv.transfer_rates import RATE_LIFETIME_S, TransferRates
from node_agent.kv.folder import BlockFolder
from node_agent.runtime.kv import block_transfer, fetcher
from node_agent.runtime.kv.fetcher import MAX_CONCURRENT_STREAMS
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.testing.fakes import MemoryBlockStore
from tests.unit.runtime.kv.kv_stage import (
    MADE,
    SIZE,
    STREAM,
    Clock,
    NoPeers,
    Store,
    contexts,
    in_s3,
    make_node,
    run,
    shelf,
)

DEADLINE_S = 60.0


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
    monkeypatch.setattr(block_transfer, "BATCH_BYTES", 2 * SIZE)
    rates = TransferRates({ContextSource.S3: Rate(0.0, 1e12)})
    rates.prefill_tokens_per_s = QUICK

    async def story() -> None:
        store, mine = Store(), shelf(tmp_path / "mine")
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        store.silent_after = 10
        node = make_node()
        fetching = contexts(mine, store, node, rates=rates)
        async with asyncio.timeout(5):
            fetched = await fetching.fetch(STREAM, IN_S3)
        assert fetched is not None
        assert node.metrics.context_bytes.labels("s3")._value.get() == fetched.size
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
    rates = TransferRates({ContextSource.S3: assumed})
    rates.prefill_tokens_per_s = 1_000.0

    async def story() -> None:
        clock, store = Clock(), Store()
        streams = {f"{number:024x}": 20 for number in range(40)}
        await in_s3(store, tmp_path / "theirs", streams)

        async def slow(index: Index, batch: Batch) -> bytes:
            clock.now += 1.0
            return await MemoryBlockStore.fetch(store, index, batch)

        monkeypatch.setattr(store, "fetch", slow)
        fetching = contexts(shelf(tmp_path / "mine"), store, rates=rates, clock=clock)
        ways = []
        for stream in streams:
            fetched = await fetching.fetch(stream, IN_S3)
            assert fetched is not None
            ways.append(fetched.choice.source)
        turned = ways.index(ContextSource.RECOMPUTE)
        assert ways == [ContextSource.S3] * turned + [ContextSource.RECOMPUTE] * (40 - turned)
        clock.now += 1.1 * RATE_LIFETIME_S
        assert rates.rate(ContextSource.S3, clock.now) == assumed

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
