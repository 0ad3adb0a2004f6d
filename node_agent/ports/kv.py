"""The store of KV blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from node_agent.core.kv.index import Batch, Index


class BlockStore(Protocol):
    """KV blocks in the checkpoints bucket: those of each stream, with an index."""

    async def keep(self, stream: str, index: Index, read: Callable[[str], bytes | bytearray | None]) -> None:
        """Write a stream's blocks, then their index.

        read: returns a block's file by its name; it is called in a thread. Raises StoreUnavailable, also where a block
        is missing; then no index is written.
        """
        ...

    async def index(self, fingerprint: bytes, stream: str) -> Index | None:
        """Return the index of a stream's blocks; None where no engine with this fingerprint wrote one.

        fingerprint: of the engine that is to use the blocks (`engine_fingerprint`). Raises StoreUnavailable.
        """
        ...

    async def fetch(self, index: Index, batch: Batch) -> bytes:
        """Return the bytes of one batch of blocks, with their headers. Raises StoreUnavailable."""
        ...
