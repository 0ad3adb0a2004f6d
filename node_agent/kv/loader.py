"""Load blocks into the engine's cache, beside its steps; report finished requests and failed blocks.

A missing or unusable block ends its request's loading there: blocks behind it are useless without it. Its file is
removed, so that the block is stored anew once it has been computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from node_agent.core.kv.blocks import HEADER_BYTES, block_defect, block_name
from node_agent.kv.folder import BlockFolder
from node_agent.kv.requests import Load

THREADS = 4
_log = logging.getLogger(__name__)

Put = Callable[[int, memoryview], None]
"""Copies a payload into the block with this id. Raises ValueError where it does not fit."""


@dataclass
class _Loading:
    load: Load
    parts: list[Future[int | None]]


class Loader:
    """Loads blocks with threads.

    put, settle: of the engine's cache; settle waits, in the same thread, until what was put is complete.
    """

    def __init__(
        self, folder: BlockFolder, fingerprint: bytes, put: Put, settle: Callable[[], None],
        shard: int = 0, shards: int = 1,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._fingerprint = fingerprint
        self._put = put
        self._settle = settle
        self._shard = shard
        self._shards = shards
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="synkti-kv-loader")
        self._loading: list[_Loading] = []

    def start(self, load: Load) -> None:
        """Load a request's blocks in up to THREADS parts, in the background; `finished` reports the end."""
        blocks, each = load.blocks, max(1, -(-len(load.blocks) // THREADS))
        parts = [self._pool.submit(self._load_part, load, at, at + each) for at in range(0, len(blocks), each)]
        self._loading.append(_Loading(load, parts))

    def finished(self) -> tuple[set[str], set[int]]:
        """Return the requests whose loading ended since the last call, and the ids of blocks without usable content."""
        if not self._loading:
            return set(), set()
        finished = [loading for loading in self._loading if all(part.done() for part in loading.parts)]
        self._loading = [loading for loading in self._loading if loading not in finished]
        broken: set[int] = set()
        for loading in finished:
            failed = [at for part in loading.parts if (at := part.result()) is not None]
            if failed:
                broken.update(block_id for block_id, _ in loading.load.blocks[min(failed) :])
        return {loading.load.request for loading in finished}, broken

    def close(self) -> None:
        """Stop, without waiting: loads that have not begun are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load_part(self, load: Load, start: int, end: int) -> int | None:
        """Load a part of a request's blocks; return the number of the first block that failed, None where none did."""
        failed = None
        for at, (block_id, key) in enumerate(load.blocks[start:end], start):
            why = self._load_block(block_id, block_name(key, self._shard, self._shards))
            if why is not None:
                _log.warning("request %s: KV block %d is computed again: %s", load.request, at, why)
                failed = at
                break
        self._settle()
        return failed

    def _load_block(self, block_id: int, name: str) -> str | None:
        try:
            data = self._folder.read(name)
            if data is None:
                return "missing"
            why = block_defect(data, self._fingerprint, name)
            if why is None:
                self._put(block_id, memoryview(data)[HEADER_BYTES:])
                self._folder.touch(name)
                return None
            self._folder.remove(name)
        except (OSError, ValueError) as error:
            return str(error)
        return why
