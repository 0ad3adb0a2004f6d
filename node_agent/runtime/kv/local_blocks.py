"""Access the KV blocks in the engine's folder from the event loop, without blocking it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from node_agent.core.kv.blocks import HEADER_BYTES, BlockHeader, block_defect, read_header
from node_agent.core.kv.index import Index, chain_of, last_blocks_of
from node_agent.kv.folder import BlockFolder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """What this node's engine stores: its fingerprint, and the tokens and shards of a block."""

    fingerprint: bytes
    block_tokens: int
    shards: int

    def tokens(self, files: int) -> int:
        """Return how many tokens `files` block files hold; a block is one file for each shard."""
        return files // self.shards * self.block_tokens


class LocalBlocks:
    """The blocks in a folder. folder: the one in the engine's configuration."""

    def __init__(self, folder: BlockFolder) -> None:
        self._folder = folder

    async def layout(self) -> Layout | None:
        """Return the layout; None where the engine stores nothing, or has not described it yet."""
        described = await asyncio.to_thread(self._folder.read_layout)
        if described is None or "declined" in described:
            return None
        try:
            return Layout(
                bytes.fromhex(described["fingerprint"]), int(described["block_tokens"]), int(described["shards"])
            )
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("the engine's blocks are of a layout that is not known here: %r", error)
            return None

    async def index(self, stream: str) -> Index | None:
        """Return the index of a stream's local blocks; of several choices that of the longest."""
        layout = await self.layout()
        if layout is None:
            return None
        names, sizes = await asyncio.to_thread(self._chain, stream, layout.shards)
        return Index(layout.fingerprint, names, sizes) if names else None

    def _chain(self, stream: str, shards: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        names: list[str] = []
        for head in last_blocks_of(stream, self._folder.last_blocks(stream)):
            names = max(names, chain_of(head, shards, self._header), key=len)
        sizes = tuple(self._folder.size(name) or 0 for name in names)
        return (tuple(names), sizes) if all(sizes) else ((), ())

    def _header(self, name: str) -> BlockHeader | None:
        begin = self._folder.read_prefix(name, HEADER_BYTES)
        try:
            return read_header(begin) if begin is not None else None
        except ValueError:
            return None

    def has_room_for(self, index: Index) -> bool:
        """Return whether all of these blocks fit: of a longer context the first would be evicted for the last."""
        return index.size <= self._folder.kept_bytes

    async def missing(self, index: Index) -> frozenset[str]:
        """Return the blocks of an index that are not here.

        The others are touched, so that they are not evicted for them.
        """
        return await asyncio.to_thread(self._missing, index)

    def _missing(self, index: Index) -> frozenset[str]:
        here = [name for name in index.names if self._folder.contains(name)]
        for name in here:
            self._folder.touch(name)
        return frozenset(index.names).difference(here)

    async def read(self, names: Sequence[str], max_bytes: int) -> bytes:
        """Return blocks, one behind the other: up to the first missing one and to `max_bytes`, but at least one."""
        return await asyncio.to_thread(self._read, names, max_bytes)

    def _read(self, names: Sequence[str], max_bytes: int) -> bytes:
        found: list[bytearray] = []
        size = 0
        for name in names:
            block = self.read_one(name)
            if block is None or (found and size + len(block) > max_bytes):
                break
            found.append(block)
            size += len(block)
        return b"".join(found)

    def read_one(self, name: str) -> bytearray | None:
        """Read a block's file in the caller's thread; None where it is missing or unreadable."""
        try:
            return self._folder.read(name)
        except OSError as error:
            _log.warning("a block cannot be read: %s", error)
            return None

    async def store(self, fingerprint: bytes, blocks: Sequence[tuple[str, memoryview]]) -> tuple[int, int]:
        """Put blocks here, up to the first that is not what its name and `fingerprint` say: (blocks, bytes)."""
        return await asyncio.to_thread(self._store, fingerprint, blocks)

    def _store(self, fingerprint: bytes, blocks: Sequence[tuple[str, memoryview]]) -> tuple[int, int]:
        stored = size = 0
        for name, block in blocks:
            why = block_defect(block, fingerprint, name)
            if why is None:
                why = self._write(name, block)
            if why is not None:
                _log.warning("a block that came is not kept: %s", why)
                break
            stored, size = stored + 1, size + len(block)
        return stored, size

    def _write(self, name: str, block: memoryview) -> str | None:
        try:
            return None if self._folder.write(name, block) else "it is larger than its share of the bound"
        except OSError as error:
            return str(error)
