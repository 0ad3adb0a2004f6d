"""Fetch contexts to this node before its engine continues a stream: from a peer, from S3, or not at all.

The node that continues a stream names the node whose engine had it last (`KV_HEADER`). The source that costs least time
is chosen (`core/kv/transfer_policy`); blocks are verified one by one, and lie in the engine's folder when the engine
gets the request. After any failure the engine computes the context: a failed fetch costs time, never an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from node_agent.core.kv.index import is_stream_id
from node_agent.core.kv.transfer_policy import MAX_TRANSFER_S, ContextSource, SourceChoice
from node_agent.core.kv.transfer_rates import TransferRates
from node_agent.runtime.kv.block_transfer import BlockSource, BlockTransfer
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.source_lookup import SourceLookup
from node_agent.runtime.node.context import NodeContext

MAX_CONCURRENT_STREAMS = 4
"""Contexts fetched at once; others wait for a slot, no longer than computing them would take."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchResult:
    """The result of a fetch: the choice, the blocks and bytes received, and the duration in seconds.

    timed_out: whether it took too long; what was received until then is stored.
    """

    choice: SourceChoice
    blocks: int = 0
    size: int = 0
    duration_s: float = 0.0
    timed_out: bool = False


class ContextFetcher:
    """Fetches contexts.

    lookup: finds the sources of a context.
    local_blocks: None where this node's engine stores no blocks.
    rates: of this engine and of the sources; each transfer is recorded there.
    clock: seconds, monotonic.
    """

    def __init__(
        self,
        node: NodeContext,
        lookup: SourceLookup,
        local_blocks: LocalBlocks | None,
        rates: TransferRates,
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._lookup = lookup
        self._local_blocks = local_blocks
        self._rates = rates
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_STREAMS)

    async def fetch(self, stream: str, source: str) -> FetchResult | None:
        """Fetch a stream's context, where that is faster than to compute it.

        source: the value of KV_HEADER.

        Returns:
            What was chosen and received; None where this node stores no blocks, or no source has any of the stream.
        """
        local_blocks = self._local_blocks
        if local_blocks is None or not is_stream_id(stream) or source == self._node.instance_id:
            return None
        try:
            async with asyncio.timeout(MAX_TRANSFER_S):
                result = await self._fetch_context(local_blocks, stream, source)
        except TimeoutError:
            result = _recompute(f"no context within {MAX_TRANSFER_S:.0f} s")
        if result is not None:
            self._report(stream, result)
        return result

    async def _fetch_context(self, local_blocks: LocalBlocks, stream: str, source: str) -> FetchResult | None:
        layout = await local_blocks.layout()
        if layout is None:
            return None
        found = await self._lookup.find(layout.fingerprint, stream, source)
        if found is None:
            return None
        index = found.index
        missing = await local_blocks.missing(index)
        if not local_blocks.has_room_for(index):
            return _recompute(f"{index.size} bytes of blocks are more than this node stores")
        size = sum(size for name, size in zip(index.names, index.sizes, strict=True) if name in missing)
        choice = self._rates.choose(found.source, layout.tokens(len(missing)), size, self._clock())
        if choice.source is ContextSource.RECOMPUTE:
            return FetchResult(choice)
        return await self._transfer(local_blocks, found, missing, choice)

    async def _transfer(
        self, local_blocks: LocalBlocks, found: BlockSource, missing: frozenset[str], choice: SourceChoice
    ) -> FetchResult:
        transfer, began, timed_out = BlockTransfer(local_blocks, found, missing), self._clock(), False
        try:
            async with asyncio.timeout(choice.timeout_s), self._slots:
                began = self._clock()
                await transfer.run()
        except TimeoutError:
            timed_out = True
        now = self._clock()
        self._rates.record(found.source, transfer.size, now - began, now)
        return FetchResult(choice, transfer.blocks, transfer.size, now - began, timed_out)

    def _report(self, stream: str, result: FetchResult) -> None:
        """Count and log a result."""
        source, metrics = result.choice.source.value, self._node.metrics
        metrics.contexts.labels(source).inc()
        metrics.context_bytes.labels(source).inc(result.size)
        _log.info(
            "stream %s: its context: %s; %d blocks came in %.3f s%s",
            stream, result.choice.reason, result.blocks, result.duration_s, ", given up" * result.timed_out,
        )  # fmt: skip


def _recompute(reason: str) -> FetchResult:
    return FetchResult(SourceChoice(ContextSource.RECOMPUTE, 0.0, reason))
