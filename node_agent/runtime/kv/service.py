"""All that a node does with KV blocks, for its composition root."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from random import Random

from node_agent.core.common.address import Address
from node_agent.kv.folder import BlockFolder
from node_agent.ports import BlockStore, Http
from node_agent.runtime.kv.fetcher import ContextFetcher
from node_agent.runtime.kv.local_blocks import LocalBlocks
from node_agent.runtime.kv.prefill_probe import PrefillProbe
from node_agent.runtime.kv.server import BlockServer
from node_agent.runtime.kv.uploader import ContextUploader
from node_agent.runtime.node.context import NodeContext

_log = logging.getLogger(__name__)


class KvService:
    """folder: of the engine's blocks, None where it keeps none; store: None where there is no bucket.

    to_engine, to_peers: HTTP; key: the cluster's; engine: where it listens; random: of the prompts that measure it.
    """

    def __init__(
        self,
        node: NodeContext,
        to_engine: Http,
        to_peers: Http,
        key: bytes,
        engine: Address,
        folder: BlockFolder | None,
        store: BlockStore | None,
        random: Random,
    ) -> None:
        self._node = node
        shelf = None if folder is None else LocalBlocks(folder)
        self._shelf = shelf
        self.door = BlockServer(shelf, time.monotonic)
        self.contexts = ContextFetcher(node, to_peers, key, shelf, store, time.monotonic)
        self._leaver = ContextUploader(node, self.contexts, shelf, store)

        def draw(count: int, low: int, high: int) -> Sequence[int]:
            return random.choices(range(low, high), k=count)  # a prompt that nobody has cached

        self._probe = PrefillProbe(to_engine, engine, node.model, draw, time.monotonic)

    def handed_off(self, streams: Sequence[str]) -> None:
        """These streams go on at other nodes."""
        self.door.handed_off(streams)
        self._leaver.handed_off(streams)

    def owed(self) -> int:
        """What this node still has to do for others before it ends, its deadline permitting."""
        return self.door.owed() + self._leaver.under_way()

    async def measure(self) -> None:
        """The engine is ready: how fast does it compute a context?"""
        if self._shelf is None:
            return
        rate = self.contexts.prefill_tokens_per_s = await self._probe.tokens_per_s()
        self._node.metrics.prefill_rate.set(rate or 0.0)
        _log.info("the engine computes a context at %s tokens/s", f"{rate:.0f}" if rate else "no measurable number of")

    def shut(self) -> None:
        self._leaver.shut()
