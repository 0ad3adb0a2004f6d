"""Transfer the blocks of one context from a source into the engine's folder, in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from node_agent.contract.errors import TransientError
from node_agent.core.kv.index import BATCH_BYTES, Batch, Index, plan_batches, split_blocks
from node_agent.core.kv.transfer_policy import ContextSource
from node_agent.runtime.kv.local_blocks import LocalBlocks

MAX_CONCURRENCY = 4
"""Active batches of one stream."""

_log = logging.getLogger(__name__)

Fetch = Callable[[Batch], Awaitable[bytes]]


@dataclass(frozen=True)
class BlockSource:
    """A node or store that has blocks of the stream. fetch: returns some of them; raises a TransientError."""

    source: ContextSource
    index: Index
    fetch: Fetch


class BlockTransfer:
    """One transfer.

    wanted: the names of the blocks to fetch.
    blocks, size: how many blocks and bytes are stored so far, also of a transfer that was cancelled.
    """

    def __init__(self, local_blocks: LocalBlocks, source: BlockSource, wanted: frozenset[str]) -> None:
        self.blocks = 0
        self.size = 0
        self._local_blocks = local_blocks
        self._source = source
        self._wanted = wanted
        self._slots = asyncio.Semaphore(MAX_CONCURRENCY)
        self._is_broken = False

    async def run(self) -> None:
        """Transfer batches in order, several at once; none begins after a failed one."""
        batches = plan_batches(self._source.index, self._wanted.__contains__, BATCH_BYTES)
        await asyncio.gather(*map(self._transfer, batches))

    async def _transfer(self, batch: Batch) -> None:
        async with self._slots:
            if self._is_broken:
                return
            try:
                data = await self._source.fetch(batch)
            except TransientError as error:
                _log.info("blocks of the index cannot be fetched: %s", error)
                data = b""
            blocks = split_blocks(data, batch.names)
            kept, size = await self._local_blocks.store(self._source.index.fingerprint, blocks)
            self.blocks, self.size = self.blocks + kept, self.size + size
            if kept < len(batch.names):
                self._is_broken = True
