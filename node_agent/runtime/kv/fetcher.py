"""Fetch contexts to this node before its engine continues a stream: from a peer, from S3, or not at all.

The node that continues a stream names the node whose engine had it last (`KV_HEADER`). The source that costs least time
is chosen (`core/kv/transfer_policy`); blocks are verified one by one, and lie in the engine's folder when the engine
gets the request. After any failure the engine computes the context: a failed fetch costs time, never an answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import orjson

from node_agent.contract.errors import PeerRefused, StoreUnavailable, TransientError
from node_agent.contract.states import NodeState
from node_agent.core.common.address import parse_address
from node_agent.core.common.request_auth import AUTH_HEADER, sign
from node_agent.core.kv.index import (
    BATCH_BYTES,
    MAX_BLOCKS,
    Batch,
    Index,
    is_stream_id,
    parse_index,
    plan_batches,
    split_blocks,
)
from node_agent.core.kv.transfer_policy import (
    MAX_TRANSFER_S,
    ContextSource,
    Rate,
    SourceChoice,
    SourceOffer,
    choose_source,
    updated_rate,
)
from node_agent.core.node.status import Liveness
from node_agent.ports import BlockStore, Http
from node_agent.runtime.kv.local_blocks import Layout, LocalBlocks
from node_agent.runtime.kv.server import BLOCKS, INDEX_OF
from node_agent.runtime.node.context import NodeContext

MAX_PEERS = 3
"""Peers queried for a stream's blocks, concurrently."""

MAX_CONCURRENCY = 4
"""Active batches of one stream."""

MAX_CONCURRENT_STREAMS = 4
"""Contexts fetched at once; others wait for a slot, no longer than computing them would take."""

PEER_RATE = Rate(0.005, 300e6)
S3_RATE = Rate(0.1, 200e6)
"""Assumed while nothing was measured: a quarter of a 10 Gb/s network, and a third of eight connections to S3."""

_ASSUMED = {ContextSource.PEER: PEER_RATE, ContextSource.S3: S3_RATE}

RATE_LIFETIME_S = 300.0
"""How long a measured rate counts, in seconds. Else a source that was slow once would never be used, or measured,
again.
"""

_INDEX_WITHIN_S = 0.5
"""For a peer's index, a connection included: an unreachable peer would cost a connection's timeout."""

_S3_INDEX_WITHIN_S = 1.0
_BATCH_SILENCE_S = 2.0
_MAX_INDEX_BYTES = 128 * MAX_BLOCKS
_log = logging.getLogger(__name__)

Fetch = Callable[[Batch], Awaitable[bytes]]


@dataclass(frozen=True)
class BlockSource:
    """A node or store that has blocks of the stream. fetch: returns some of them; raises a TransientError."""

    source: ContextSource
    index: Index
    fetch: Fetch


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


@dataclass
class _FetchProgress:
    """What a fetch has received so far."""

    blocks: int = 0
    size: int = 0


@dataclass(frozen=True)
class _MeasuredRate:
    rate: Rate
    at: float


class ContextFetcher:
    """Fetches contexts.

    local_blocks: None where this node's engine stores no blocks.
    store: None where there is no bucket.
    prefill_tokens_per_s: this engine's, None while it was not measured.
    clock: seconds, monotonic.
    """

    def __init__(
        self,
        node: NodeContext,
        client: Http,
        key: bytes,
        local_blocks: LocalBlocks | None,
        store: BlockStore | None,
        clock: Callable[[], float],
    ) -> None:
        self.prefill_tokens_per_s: float | None = None
        self._node = node
        self._client = client
        self._key = key
        self._local_blocks = local_blocks
        self._store = store
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_STREAMS)
        self._rates: dict[ContextSource, _MeasuredRate] = {}

    @property
    def sources(self) -> tuple[ContextSource, ...]:
        """The sources that a context can come from."""
        return tuple(_ASSUMED)

    def offer(self, way: ContextSource, tokens: int, size: int) -> SourceOffer:
        """Return an offer of a source, with its recently measured rate."""
        return SourceOffer(way, tokens, size, self._rate(way))

    def _rate(self, way: ContextSource) -> Rate:
        measured = self._rates.get(way)
        if measured is None or self._clock() - measured.at > RATE_LIFETIME_S:
            return _ASSUMED[way]
        return measured.rate

    def _update_rate(self, way: ContextSource, size: int, took_s: float) -> None:
        before = self._rate(way)
        rate = updated_rate(before, size, took_s)
        if rate is not before:
            self._rates[way] = _MeasuredRate(rate, self._clock())

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
            result = FetchResult(
                SourceChoice(ContextSource.RECOMPUTE, 0.0, f"no context within {MAX_TRANSFER_S:.0f} s")
            )
        if result is not None:
            way = result.choice.source.value
            self._node.metrics.contexts.labels(way).inc()
            self._node.metrics.context_bytes.labels(way).inc(result.size)
            _log.info(
                "stream %s: its context: %s; %d blocks came in %.3f s%s",
                stream, result.choice.reason, result.blocks, result.duration_s, ", given up" * result.timed_out,
            )  # fmt: skip
        return result

    async def _fetch_context(self, local_blocks: LocalBlocks, stream: str, source: str) -> FetchResult | None:
        layout = await local_blocks.layout()
        if layout is None:
            return None
        found = await self._find_at_peers(layout, stream, source) or await self._find_in_s3(layout, stream, source)
        if found is None:
            return None
        index = found.index
        missing = await local_blocks.missing(index)
        size = sum(size for name, size in zip(index.names, index.sizes, strict=True) if name in missing)
        if not local_blocks.has_room_for(index):
            return FetchResult(
                SourceChoice(
                    ContextSource.RECOMPUTE, 0.0, f"{index.size} bytes of blocks are more than this node stores"
                )
            )
        tokens = layout.tokens(len(missing))
        choice = choose_source(tokens, self.prefill_tokens_per_s, (self.offer(found.source, tokens, size),))
        if choice.source is ContextSource.RECOMPUTE:
            return FetchResult(choice)
        return await self._transfer(local_blocks, found, missing, choice)

    async def _transfer(
        self, local_blocks: LocalBlocks, found: BlockSource, missing: frozenset[str], choice: SourceChoice
    ) -> FetchResult:
        progress, began, timed_out = _FetchProgress(), self._clock(), False
        try:
            async with asyncio.timeout(choice.timeout_s), self._slots:
                began = self._clock()
                await _transfer_all(local_blocks, found, missing, progress)
        except TimeoutError:
            timed_out = True
        took_s = self._clock() - began
        self._update_rate(found.source, progress.size, took_s)
        return FetchResult(choice, progress.blocks, progress.size, took_s, timed_out)

    async def _find_at_peers(self, layout: Layout, stream: str, source: str) -> BlockSource | None:
        """Query the candidate peers concurrently; return the one with the most bytes, or None."""
        asked = (self._find_at_peer(layout, stream, address) for address in self._candidate_peers(source))
        sources = [found for found in await asyncio.gather(*asked) if found is not None]
        return max(sources, key=lambda found: found.index.size, default=None)

    def _candidate_peers(self, source: str) -> list[str]:
        """Return the addresses of the node that was lost last, and of some that drain.

        The node that was lost last may never have had the context, and a client that returns from a draining entry does
        not know whose engine it was. Only peers that are alive count: a silent one would cost the client a pause.
        """
        alive = [status for status in self._node.members.view.alive if status.state is not NodeState.GONE]
        named = [status.peer_address for status in alive if status.instance_id == source]
        draining = [s.peer_address for s in alive if s.state is NodeState.DRAINING and s.instance_id != source]
        return [*named, *draining][:MAX_PEERS]

    async def _find_at_peer(self, layout: Layout, stream: str, address: str) -> BlockSource | None:
        async def fetch(batch: Batch) -> bytes:
            body = orjson.dumps(batch.names)
            return await self._request(address, "POST", BLOCKS, body, _BATCH_SILENCE_S, batch.end - batch.start)

        with suppress(TransientError, ValueError, TimeoutError):
            async with asyncio.timeout(_INDEX_WITHIN_S):
                answer = await self._request(address, "GET", INDEX_OF + stream, b"", _INDEX_WITHIN_S, _MAX_INDEX_BYTES)
            index = parse_index(answer)
            return BlockSource(ContextSource.PEER, index, fetch) if index.fingerprint == layout.fingerprint else None
        return None

    async def _find_in_s3(self, layout: Layout, stream: str, source: str) -> BlockSource | None:
        store = self._store
        if store is None or not self._may_be_in_s3(source):
            return None
        try:
            async with asyncio.timeout(_S3_INDEX_WITHIN_S):
                index = await store.index(layout.fingerprint, stream)
        except (StoreUnavailable, TimeoutError) as error:
            _log.info("stream %s: cannot read whether S3 has its context: %r", stream, error)
            return None
        if index is None or index.fingerprint != layout.fingerprint:
            return None
        return BlockSource(ContextSource.S3, index, lambda batch: store.fetch(index, batch))

    def _may_be_in_s3(self, source: str) -> bool:
        """Return whether S3 may have it.

        Only a node that drained uploads; after any other loss the request would cost a pause.
        """
        member = self._node.member(source)
        if member is None or member.liveness is Liveness.LEFT:
            return True
        return member.status.state in (NodeState.DRAINING, NodeState.GONE)

    async def _request(
        self, address: str, method: str, target: str, body: bytes, read_timeout_s: float, max_bytes: int
    ) -> bytes:
        """Request something from a peer. Raises ExchangeLost; PeerRefused for a response other than 200."""
        stamp = sign(self._key, method, target, body, self._node.wall_clock(), secrets.token_hex(12))
        headers = {"content-type": "application/json", AUTH_HEADER: stamp}
        exchange = await self._client.open(
            parse_address(address), method, target, headers=headers, body=body, read_timeout_s=read_timeout_s
        )
        try:
            answer = await exchange.read_all(max_bytes)
            if exchange.status != 200:
                raise PeerRefused(f"the peer answered with status {exchange.status}")
            return answer
        finally:
            exchange.close()


async def _transfer_all(
    local_blocks: LocalBlocks, found: BlockSource, missing: frozenset[str], progress: _FetchProgress
) -> None:
    """Transfer batches in order, several at once; none begins after a failed one. progress: counts what was stored."""
    slots, broken = asyncio.Semaphore(MAX_CONCURRENCY), asyncio.Event()

    async def one(batch: Batch) -> None:
        async with slots:
            if broken.is_set():
                return
            try:
                data = await found.fetch(batch)
            except TransientError as error:
                _log.info("blocks of the index cannot be fetched: %s", error)
                data = b""
            kept, size = await local_blocks.store(found.index.fingerprint, split_blocks(data, batch.names))
            progress.blocks, progress.size = progress.blocks + kept, progress.size + size
            if kept < len(batch.names):
                broken.set()

    await asyncio.gather(*(one(batch) for batch in plan_batches(found.index, missing.__contains__, BATCH_BYTES)))
