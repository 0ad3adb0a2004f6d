"""Contexts left in the checkpoints bucket by a node that drains: for those who go on when it is gone.

The longest first, because they cost most to compute again; one that the next engine would rather compute is not left.
A drain hands off a few streams at a time, and again and again: what waits is kept in one order, and few are under way
at once, because each holds some parts of 8 MiB in memory.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Sequence

from node_agent.contract.errors import StoreUnavailable
from node_agent.core.kv.index import Index, is_stream_id
from node_agent.core.kv.transfer_policy import ContextSource, choose_source
from node_agent.ports import BlockStore
from node_agent.runtime.kv.fetcher import ContextFetcher
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.node.context import NodeContext

AT_ONCE = 2
"""Contexts being written; each has several parts under way (`adapters/block_store`)."""

_log = logging.getLogger(__name__)


class ContextUploader:
    """store: None where there is no bucket; shelf: None where this node's engine keeps no blocks."""

    def __init__(
        self, node: NodeContext, contexts: ContextFetcher, shelf: LocalBlocks | None, store: BlockStore | None
    ) -> None:
        self._node = node
        self._contexts = contexts
        self._shelf = shelf
        self._store = store
        self._waiting: list[tuple[int, str, Index]] = []  # a heap: the longest first
        self._leaving: set[asyncio.Task[None]] = set()
        self._writing = 0

    def handed_off(self, streams: Sequence[str]) -> None:
        """Leave the contexts of these, in the background; the drain's deadline ends what takes longer."""
        streams = [stream for stream in streams if is_stream_id(stream)]
        if self._shelf is not None and self._store is not None and streams:
            task = asyncio.create_task(self._leave(self._shelf, self._store, streams))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def under_way(self) -> int:
        """How many sets of contexts are being left: a node that drains is not to end before."""
        return len(self._leaving)

    def shut(self) -> None:
        for task in self._leaving:
            task.cancel()

    async def _leave(self, shelf: LocalBlocks, store: BlockStore, streams: Sequence[str]) -> None:
        layout = await shelf.layout()
        if layout is None:
            return
        for stream in streams:
            if (index := await shelf.index(stream)) is not None:
                heapq.heappush(self._waiting, (-index.size, stream, index))
        if self._writing >= AT_ONCE:
            return  # whoever is at it takes these, too
        self._writing += 1
        try:
            while self._waiting:
                _, stream, index = heapq.heappop(self._waiting)
                outcome = await self._leave_one(shelf, store, stream, index, layout.tokens(len(index.names)))
                self._node.metrics.contexts_left.labels(outcome).inc()
        finally:
            self._writing -= 1

    async def _leave_one(self, shelf: LocalBlocks, store: BlockStore, stream: str, index: Index, tokens: int) -> str:
        offer = self._contexts.offer(ContextSource.S3, tokens, index.size)
        choice = choose_source(tokens, self._contexts.prefill_tokens_per_s, (offer,))
        if choice.source is not ContextSource.S3:
            _log.info("stream %s: its context is not left in S3: %s", stream, choice.reason)
            return "not-worth-it"
        try:
            await store.keep(stream, index, shelf.read_one)
        except StoreUnavailable as error:
            _log.warning("stream %s: its context is not left in S3: %s", stream, error)
            return "failed"
        _log.info("stream %s: its context is left in S3: %d bytes", stream, index.size)
        return "left"
