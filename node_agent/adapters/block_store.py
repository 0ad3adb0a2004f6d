"""Store KV blocks in the checkpoints bucket: written in parts, read in ranges, several at once.

A stream's blocks are one object: S3 takes about as long for a small object as for a megabyte, and there would be
hundreds. Its index is written last, so that an index implies its blocks. The reader verifies block by block
(`core/kv/blocks`).

Source for the sizes: AWS's "Performance guidelines for Amazon S3" (ranges of 8-16 MB, 85-90 MB/s a connection).
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from node_agent.adapters.aws import in_pool
from node_agent.core.kv.index import MAX_BLOCKS, Batch, Index, blocks_key, index_key, parse_index

MAX_CONCURRENCY = 8
"""Active parts or ranges: about 700 MB/s, more than half of a 10 Gb/s network."""

_WITHIN_S = 150.0
"""More than the two minutes that a node has to upload its blocks."""

_PART_BYTES = 8 * 1024 * 1024
_MAX_INDEX_BYTES = 128 * MAX_BLOCKS
_NOT_THERE = frozenset({"NoSuchKey", "404", "403", "AccessDenied"})
"""Without the right to list the bucket, S3 refuses access to a missing object."""


class S3BlockStore:
    """The BlockStore port. client: a boto3 S3 client for MAX_CONCURRENCY connections or more."""

    def __init__(self, client: Any, bucket: str, part_bytes: int = _PART_BYTES) -> None:
        self._client = client
        self._bucket = bucket
        self._config = TransferConfig(
            multipart_threshold=part_bytes, multipart_chunksize=part_bytes, max_concurrency=MAX_CONCURRENCY
        )
        # Its own threads: they wait for the network, and other calls of AWS must not wait for them.
        self._pool = ThreadPoolExecutor(MAX_CONCURRENCY, thread_name_prefix="kv-s3")

    async def keep(self, stream: str, index: Index, read: Callable[[str], bytes | bytearray | None]) -> None:
        """Upload a stream's blocks as one object, then their index.

        index: names and sizes of the blocks, in order; the object's key is added here.
        read: returns a block's bytes by its name, None where it is missing; called in a thread.
        A missing block, or one of another size, is StoreUnavailable like a failure of S3: no index is written.

        Raises:
            CancelledError: the task was cancelled; the upload ends at its next block.
        """
        key = blocks_key(index.fingerprint, stream)
        index_bytes = replace(index, object_key=key).to_bytes()
        cancelled = threading.Event()

        def write() -> None:
            # Buffered, because boto3 takes a short read for the end, and all of it for one part.
            blocks = io.BufferedReader(_ConcatenatedBlocks(index, read, cancelled), self._config.multipart_chunksize)
            self._client.upload_fileobj(blocks, self._bucket, key, Config=self._config)
            self._client.put_object(Bucket=self._bucket, Key=index_key(index.fingerprint, stream), Body=index_bytes)

        try:
            await self._run(f"keeping the blocks of stream {stream}", write)
        except asyncio.CancelledError:
            cancelled.set()  # else the thread, and with it the process, would run until all of it was written
            raise

    async def index(self, fingerprint: bytes, stream: str) -> Index | None:
        """Return a stream's index, None where S3 has none. Raises StoreUnavailable, also for an unreadable one."""
        key = index_key(fingerprint, stream)

        def read() -> Index | None:
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if str(error.response.get("Error", {}).get("Code", "")) in _NOT_THERE:
                    return None
                raise
            found = parse_index(answer["Body"].read(_MAX_INDEX_BYTES))
            if found.object_key != blocks_key(fingerprint, stream):  # an index may name only its own stream's blocks
                raise ValueError(f"an index of {found.object_key[:200]!r}")
            return found

        found: Index | None = await self._run(f"reading s3://{self._bucket}/{key}", read)
        return found

    async def fetch(self, index: Index, batch: Batch) -> bytes:
        """Return the bytes of a batch of blocks. Raises StoreUnavailable, also where S3 has fewer or more."""

        def read() -> bytes:
            ranged = f"bytes={batch.start}-{batch.end - 1}"
            answer = self._client.get_object(Bucket=self._bucket, Key=index.object_key, Range=ranged)
            body: bytes = answer["Body"].read(batch.end - batch.start + 1)
            if len(body) != batch.end - batch.start:
                raise ValueError(f"{len(body)} bytes or more, not {batch.end - batch.start}")
            return body

        found: bytes = await self._run(f"reading s3://{self._bucket}/{index.object_key}", read)
        return found

    async def _run(self, what: str, call: Callable[[], Any]) -> Any:
        return await in_pool(self._pool, what, call, _WITHIN_S)


class _ConcatenatedBlocks(io.RawIOBase):
    """The blocks of an index as one file, with at most one block in memory.

    Raises OSError for a missing block, for one of another size than the index has, and once it is cancelled: the upload
    ends there.
    """

    def __init__(
        self, index: Index, read: Callable[[str], bytes | bytearray | None], cancelled: threading.Event
    ) -> None:
        self._given_up = cancelled
        self._left = iter(zip(index.names, index.sizes, strict=True))
        self._read = read
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            following = next(self._left, None)
            if following is None:
                return 0
            name, size = following
            block = None if self._given_up.is_set() else self._read(name)
            if block is None or len(block) != size:
                raise OSError(f"block {name} is not there any more")
            self._held = memoryview(block)
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count
