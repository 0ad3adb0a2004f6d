"""Compose a node's KV parts: server, fetcher, uploader, prefill probe, and the rates that these measure."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from random import Random

from node_agent.core.common.address import Address
from node_agent.core.kv.transfer_rates import TransferRates
from node_agent.kv.folder import BlockFolder
from node_agent.ports import BlockStore, Http
from node_agent.runtime.kv.block_client import BlockClient
from node_agent.runtime.kv.fetcher import ContextFetcher
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.prefill_probe import PrefillProbe
from node_agent.runtime.kv.server import BlockServer
from node_agent.runtime.kv.source_lookup import SourceLookup
from node_agent.runtime.kv.uploader import ContextUploader
from node_agent.runtime.node.context import NodeContext

_log = logging.getLogger(__name__)


class KvService:
    """A node's KV blocks.

    folder: of the engine's blocks, None where it stores none.
    store: None where there is no bucket.
    to_engine, to_peers: HTTP clients; that of peer APIs signs requests.
    engine: where it listens.
    random: draws the prompts of the prefill probe.
    """

    def __init__(
        self,
        node: NodeContext,
        to_engine: Http,
        to_peers: Http,
        engine: Address,
        folder: BlockFolder | None,
        store: BlockStore | None,
        random: Random,
    ) -> None:
        self._node = node
        local_blocks = None if folder is None else LocalBlocks(folder)
        self._local_blocks = local_blocks
        self.server = BlockServer(local_blocks, time.monotonic)
        self.rates = TransferRates()
        lookup = SourceLookup(node, BlockClient(to_peers), store)
        self.fetcher = ContextFetcher(node, lookup, local_blocks, self.rates, time.monotonic)
        self._uploader = ContextUploader(node, local_blocks, store, self.rates, time.monotonic)

        def draw(count: int, low: int, high: int) -> Sequence[int]:
            return random.choices(range(low, high), k=count)  # a prompt that no cache has

        self._probe = PrefillProbe(to_engine, engine, node.model, draw, time.monotonic)

    def handed_off(self, streams: Sequence[str]) -> None:
        """Record streams that continue at other nodes."""
        self.server.handed_off(streams)
        self._uploader.handed_off(streams)

    def pending_transfers(self) -> int:
        """Return the number of fetches and uploads that a node has to wait for before it ends, within its deadline."""
        return self.server.pending_transfers() + self._uploader.pending_uploads()

    def prefill_tokens_per_s(self) -> float:
        """Return the prefill rate of this node's engine; 0 while it was not measured."""
        return self.rates.prefill_tokens_per_s or 0.0

    async def measure_prefill(self) -> None:
        """Measure the prefill rate of an engine that is ready."""
        if self._local_blocks is None:
            return
        rate = self.rates.prefill_tokens_per_s = await self._probe.tokens_per_s()
        self._node.metrics.prefill_rate.set(rate or 0.0)
        _log.info("the engine prefills at %s tokens/s", f"{rate:.0f}" if rate else "no measurable number of")

    def close(self) -> None:
        """Cancel the running uploads."""
        self._uploader.close()
