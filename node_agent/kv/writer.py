"""Keeps blocks behind the engine's back: a queue with a bound, and a thread that writes.

The engine's step only hands blocks over. Where the disk cannot follow, blocks are dropped and counted: one that is
missing costs a later request its computation, one that is waited for would cost every client now.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from node_agent.core.kv.blocks import block_name, pack_header
from node_agent.kv.folder import BlockFolder
from node_agent.kv.requests import Save

MAX_QUEUED_BYTES = 128 * 1024 * 1024
_CLOSE_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CopiedBlock:
    """A block outside the engine's cache. payload: gives its bytes, in the writer's thread; size: of them."""

    save: Save
    payload: Callable[[], memoryview]
    size: int


@dataclass(frozen=True)
class LastBlock:
    """The request's last block is one that is kept already."""

    request: str
    key: bytes


@dataclass
class Counts:
    """Since the start: blocks kept, requests that found no room, blocks that the disk would not take."""

    kept: int = 0
    dropped: int = 0
    failed: int = 0


class Writer:
    """shard, shards: which part of every block this worker has."""

    def __init__(
        self,
        folder: BlockFolder,
        fingerprint: bytes,
        shard: int = 0,
        shards: int = 1,
        max_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self.counts = Counts()
        self._folder = folder
        self._fingerprint = fingerprint
        self._shard = shard
        self._shards = shards
        self._max_bytes = max_bytes
        self._queued = 0
        self._queue: deque[CopiedBlock | LastBlock] = deque()
        self._gaps: set[str] = set()
        self._wake = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="synkti-kv-writer", daemon=True)
        self._thread.start()

    def reserve(self, save: Save, size: int) -> bool:
        """Reserve room for this block. Where there is none, nothing of its request is kept any more: it has a gap."""
        if save.request in self._gaps:
            return False
        with self._wake:
            if self._queued + size <= self._max_bytes:
                self._queued += size
                return True
        self._gaps.add(save.request)
        self.counts.dropped += 1
        if self.counts.dropped.bit_count() == 1:  # the first, the second, the fourth, ...
            _log.warning("the disk cannot follow: KV of %d requests was not kept to its end", self.counts.dropped)
        return False

    def enqueue(self, items: Sequence[CopiedBlock | LastBlock]) -> None:
        """Hand over blocks that have their room, and heads."""
        with self._wake:
            self._queue.extend(items)
            self._wake.notify()

    def remove_finished(self, requests: Iterable[str]) -> None:
        """These have finished."""
        self._gaps.difference_update(requests)

    def close(self, within_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, and end; what does not fit into that time is lost."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._ending)
                batch = list(self._queue)
                self._queue.clear()
            if not batch:
                return
            last_blocks = self._write(batch)
            if last_blocks and self._shard == 0:
                with contextlib.suppress(OSError):  # a head that is missing: that stream's blocks are not sent ahead
                    self._folder.append_last_blocks(last_blocks)

    def _write(self, batch: Sequence[CopiedBlock | LastBlock]) -> dict[str, bytes]:
        """The last block of each request that is kept now."""
        last_blocks: dict[str, bytes] = {}
        for item in batch:
            if isinstance(item, LastBlock):
                last_blocks[item.request] = item.key
            elif self._keep(item):
                last_blocks[item.save.request] = item.save.key
        return last_blocks

    def _keep(self, copied: CopiedBlock) -> bool:
        save = copied.save
        name = block_name(save.key, self._shard, self._shards)
        try:
            payload = copied.payload()
            header = pack_header(
                self._fingerprint, save.key, save.parent, save.place, payload, self._shard, self._shards
            )
            why = "" if self._folder.write(name, header, payload) else "one is larger than its share of the bound"
        except OSError as error:
            why = str(error)
        finally:
            with self._wake:
                self._queued -= copied.size
        if why:
            self.counts.failed += 1
            if self.counts.failed.bit_count() == 1:
                _log.warning("%d KV blocks could not be written so far: %s", self.counts.failed, why)
            return False
        self.counts.kept += 1
        return True
