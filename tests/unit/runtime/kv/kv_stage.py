"""A node with blocks on its disk, a store and peers, for tests of how contexts come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from local.lone_node import lone_node
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.states import NodeState
from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.core.kv.blocks import block_name, chain, chain_root, pack_header
from node_agent.core.kv.index import Batch, Index
from node_agent.core.kv.transfer_rates import TransferRates
from node_agent.kv.folder import BlockFolder
from node_agent.ports import ExchangeLost
from node_agent.runtime.kv.block_client import BlockClient
from node_agent.runtime.kv.fetcher import ContextFetcher
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.source_lookup import SourceLookup
from node_agent.runtime.kv.uploader import ContextUploader
from node_agent.runtime.node.context import NodeContext
from node_agent.testing.fakes import MemoryBlockStore
from tests.scenarios.local_fleet import eventually
from tests.unit.runtime.a_node import status_of

MADE, SIZE, STREAM = bytes(16), 100_000, "ab" * 12
SLOW, FAST = 10.0, 1e9


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_node(state: NodeState = NodeState.DRAINING) -> NodeContext:
    return lone_node(status_of(0), [replace(status_of(1, state), peer_address="10.0.0.2:1")], lambda: 0.0)


def shelf(path: Path, made: bytes = MADE) -> LocalBlocks:
    folder = BlockFolder(path, 10**9)
    folder.write_layout({"fingerprint": made.hex(), "block_tokens": 16, "shards": 1})
    return LocalBlocks(folder)


def lay(path: Path, stream: str = STREAM, blocks: int = 30, size: int = SIZE) -> list[str]:
    folder, parent = BlockFolder(path, 10**9), chain_root(MADE, stream)
    keys = chain(parent, range(blocks * 16), 16)
    for place, key in enumerate(keys):
        payload = bytes([place]) * size
        folder.write(block_name(key), pack_header(MADE, key, parent, place, payload), payload)
        parent = key
    folder.append_last_blocks({f"cmpl-{stream}-0": keys[-1]})
    return list(map(block_name, keys))


class Store(MemoryBlockStore):
    """Records its look-ups, batches and concurrency. broken_after: the number of fetches that succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[str] = []
        self.kept: list[str] = []
        self.batches: list[Batch] = []
        self.at_once = self.most_at_once = 0
        self.broken_after = 10**9
        self.stuck = False
        self.down = False
        self.silent = False
        self.silent_after = 10**9

    async def index(self, fingerprint: bytes, stream: str) -> Index | None:
        self.lookups.append(stream)
        if self.stuck:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await asyncio.Event().wait()
            finally:
                self.at_once -= 1
        if self.down:
            raise StoreUnavailable("S3 is down")
        return await super().index(fingerprint, stream)

    async def fetch(self, index: Index, batch: Batch) -> bytes:
        self.batches.append(batch)
        if len(self.batches) > self.broken_after:
            raise StoreUnavailable("S3 is down")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.silent or len(self.batches) > self.silent_after:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        return await super().fetch(index, batch)

    async def keep(self, stream: str, index: Index, read: Callable[[str], bytes | bytearray | None]) -> None:
        if self.down:
            raise StoreUnavailable("S3 is down")
        self.kept.append(stream)
        await super().keep(stream, index, read)


class NoPeers:
    """No peer answers; `requests` has address and target of each request."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def open(self, address: Address, method: str, target: str, **_: Any) -> Any:
        self.requests.append(f"{address} {target}")
        raise ExchangeLost(LossReason.REFUSED)


class AnsweringPeer:
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


async def in_s3(store: Store, path: Path, streams: dict[str, int]) -> None:
    """Another node's contexts, by the number of their blocks."""
    theirs = shelf(path)
    for stream, blocks in streams.items():
        lay(path, stream, blocks)
        index = await theirs.index(stream)
        assert index is not None
        await store.keep(stream, index, theirs.read_one)


def contexts(
    here: LocalBlocks | None,
    store: Store | None,
    node: NodeContext | None = None,
    peers: Any = None,
    rates: TransferRates | None = None,
    clock: Clock | None = None,
) -> ContextFetcher:
    node = node or make_node()
    client: Any = peers or NoPeers()
    lookup = SourceLookup(node, BlockClient(client), store)
    return ContextFetcher(node, lookup, here, rates or prefilling(SLOW), clock or Clock())


def prefilling(tokens_per_s: float) -> TransferRates:
    """Assumed rates of the sources, beside an engine with this one."""
    rates = TransferRates()
    rates.prefill_tokens_per_s = tokens_per_s
    return rates


def uploader(node: NodeContext, here: LocalBlocks, store: Store, prefill_tokens_per_s: float = SLOW) -> ContextUploader:
    return ContextUploader(node, here, store, prefilling(prefill_tokens_per_s), Clock())


async def over(leaver: ContextUploader) -> None:
    async def none_under_way() -> bool:
        return not leaver.pending_uploads()

    await eventually("all is left", none_under_way)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())
