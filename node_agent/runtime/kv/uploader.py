"""Upload contexts of a draining node to the checkpoints bucket, for nodes that continue their streams later.

The longest first, because they cost most to compute again; a context that the next engine would rather compute is not
uploaded. A drain hands off a few streams at a time, repeatedly: one queue orders what waits, and few uploads run at
once, because each holds some parts of 8 MiB in memory.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Sequence

from node_agent.contract.errors import StoreUnavailable
from node_agent.core.kv.index import Index, is_stream_id
from node_agent.core.kv.transfer_policy import ContextSource
from node_agent.core.kv.transfer_rates import TransferRates
from node_agent.ports import BlockStore
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.node.context import NodeContext

MAX_CONCURRENCY = 2
"""Concurrent uploads; each has several active parts (`adapters/block_store`)."""

_log = logging.getLogger(__name__)


class ContextUploader:
    """Uploads contexts.

    local_blocks: None where this node's engine stores no blocks.
    store: None where there is no bucket.
    rates: of this engine, which the next one's is assumed to be like, and of S3.
    clock: seconds, monotonic.
    """

    def __init__(
        self,
        node: NodeContext,
        local_blocks: LocalBlocks | None,
        store: BlockStore | None,
        rates: TransferRates,
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._local_blocks = local_blocks
        self._store = store
        self._rates = rates
        self._clock = clock
        self._queue: list[tuple[int, str, Index]] = []  # a heap: the longest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = 0

    def handed_off(self, streams: Sequence[str]) -> None:
        """Upload the contexts of these streams in the background; the drain's deadline ends what takes longer."""
        streams = [stream for stream in streams if is_stream_id(stream)]
        if self._local_blocks is not None and self._store is not None and streams:
            task = asyncio.create_task(self._upload(self._local_blocks, self._store, streams))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def pending_uploads(self) -> int:
        """Return the number of running upload tasks: a draining node does not end before."""
        return len(self._tasks)

    def close(self) -> None:
        """Cancel the running uploads; a context that is not complete in the bucket has no index there."""
        for task in self._tasks:
            task.cancel()

    async def _upload(self, local_blocks: LocalBlocks, store: BlockStore, streams: Sequence[str]) -> None:
        layout = await local_blocks.layout()
        if layout is None:
            return
        for stream in streams:
            if (index := await local_blocks.index(stream)) is not None:
                heapq.heappush(self._queue, (-index.size, stream, index))
        if self._writing >= MAX_CONCURRENCY:
            return  # the running tasks upload these
        self._writing += 1
        try:
            while self._queue:
                _, stream, index = heapq.heappop(self._queue)
                outcome = await self._upload_one(local_blocks, store, stream, index, layout.tokens(len(index.names)))
                self._node.metrics.contexts_uploaded.labels(outcome).inc()
        finally:
            self._writing -= 1

    async def _upload_one(
        self, local_blocks: LocalBlocks, store: BlockStore, stream: str, index: Index, tokens: int
    ) -> str:
        choice = self._rates.choose(ContextSource.S3, tokens, index.size, self._clock())
        if choice.source is not ContextSource.S3:
            _log.info("stream %s: its context is not uploaded to S3: %s", stream, choice.reason)
            return "not-worth-it"
        try:
            await store.keep(stream, index, local_blocks.read_one)
        except StoreUnavailable as error:
            _log.warning("stream %s: its context is not uploaded to S3: %s", stream, error)
            return "failed"
        _log.info("stream %s: its context is left in S3: %d bytes", stream, index.size)
        return "left"
