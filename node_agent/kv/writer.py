"""Store blocks beside the engine's steps: a bounded queue, and a thread that writes.

The engine's step only enqueues blocks. Where the disk is too slow, blocks are dropped and counted: a missing block
costs a later request its computation, a wait would cost every client now.
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
    """A block outside the engine's cache.

    payload: returns its bytes, in the writer's thread.
    size: in bytes.
    """

    save: Save
    payload: Callable[[], memoryview]
    size: int


@dataclass(frozen=True)
class LastBlock:
    """A request's last block, which is stored already."""

    request: str
    key: bytes


@dataclass
class Counts:
    """Since the start: blocks stored, requests without room in the queue, failed writes."""

    kept: int = 0
    dropped: int = 0
    failed: int = 0


class Writer:
    """Writes blocks in a thread. shard, shards: the part of every block that this worker has."""

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
        """Reserve room for this block. Without room, nothing more of its request is stored: it has a gap."""
        if save.request in self._gaps:
            return False
        with self._wake:
            if self._queued + size <= self._max_bytes:
                self._queued += size
                return True
        self._gaps.add(save.request)
        self.counts.dropped += 1
        if self.counts.dropped.bit_count() == 1:  # the first, the second, the fourth, ...
            _log.warning("the disk is too slow: KV of %d requests was not stored to its end", self.counts.dropped)
        return False

    def enqueue(self, items: Sequence[CopiedBlock | LastBlock]) -> None:
        """Enqueue blocks with reserved room, and last blocks."""
        with self._wake:
            self._queue.extend(items)
            self._wake.notify()

    def remove_finished(self, requests: Iterable[str]) -> None:
        """Remove finished requests."""
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
                with contextlib.suppress(OSError):  # without its last block, a stream's blocks are not transferred
                    self._folder.append_last_blocks(last_blocks)

    def _write(self, batch: Sequence[CopiedBlock | LastBlock]) -> dict[str, bytes]:
        """Write a batch; return the last stored block of each request."""
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
