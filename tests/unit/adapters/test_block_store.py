"""One suite over blocks in S3 (moto) and their twin in memory; parts and ranges of S3 besides."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from node_agent.adapters.block_store import S3BlockStore
from node_agent.contract.errors import StoreUnavailable
from node_agent.core.kv.blocks import block_name, chain, chain_root
from node_agent.core.kv.index import Index, blocks_key, index_key, plan_batches
from node_agent.ports import BlockStore
from node_agent.testing.fakes import MemoryBlockStore
from tests.unit.adapters.conftest import BUCKET

STREAM = "ab" * 12
MADE = bytes(16)
NAMES = tuple(map(block_name, chain(chain_root(MADE), range(20), 4)))
MIB = 1024 * 1024
PART_BYTES = 5 * MIB  # S3's least, but for the last
BLOCKS = {name: bytes([number]) * (2 * MIB + number) for number, name in enumerate(NAMES)}
INDEX = Index(MADE, NAMES, tuple(map(len, BLOCKS.values())))
_T = TypeVar("_T")


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> BlockStore:
    if request.param == "memory":
        return MemoryBlockStore()
    return S3BlockStore(request.getfixturevalue("s3"), BUCKET, PART_BYTES)


def run_story(story: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return asyncio.run(story())


def test_any_selection_of_blocks_is_fetched_as_it_was_stored(store: BlockStore) -> None:
    async def story() -> dict[str, bytes]:
        assert await store.index(MADE, STREAM) is None
        await store.keep(STREAM, INDEX, BLOCKS.get)
        index = await store.index(MADE, STREAM)
        assert index is not None
        assert (index.names, index.sizes) == (INDEX.names, INDEX.sizes)
        found = {}
        for wanted in (set(NAMES), set(NAMES[2:4]), {NAMES[4]}):
            for batch in plan_batches(index, wanted.__contains__, 3 * MIB):
                data = await store.fetch(index, batch)
                for name in batch.names:
                    found[name], data = data[: len(BLOCKS[name])], data[len(BLOCKS[name]) :]
                assert data == b""
        return found

    assert run_story(story) == BLOCKS


@pytest.mark.parametrize("gone", [0, 2, 4])
@pytest.mark.parametrize("what", ["missing", "another size"])
def test_a_block_evicted_during_an_upload_leaves_no_index(store: BlockStore, gone: int, what: str) -> None:
    blocks: dict[str, bytes] = dict(BLOCKS)
    blocks.pop(NAMES[gone])
    if what == "another size":
        blocks[NAMES[gone]] = b"half"

    async def story() -> None:
        with pytest.raises(StoreUnavailable):
            await store.keep(STREAM, INDEX, blocks.get)
        assert await store.index(MADE, STREAM) is None

    run_story(story)


def test_another_engines_blocks_are_not_found(store: BlockStore) -> None:
    async def story() -> None:
        await store.keep(STREAM, INDEX, BLOCKS.get)
        assert await store.index(bytes([1] * 16), STREAM) is None
        assert await store.index(MADE, "cd" * 12) is None

    run_story(story)


def test_large_contexts_are_uploaded_in_parts(s3: Any) -> None:
    run_story(lambda: S3BlockStore(s3, BUCKET, PART_BYTES).keep(STREAM, INDEX, BLOCKS.get))
    answer = s3.get_object(Bucket=BUCKET, Key=blocks_key(MADE, STREAM))
    assert answer["Body"].read() == b"".join(BLOCKS.values())
    assert answer["ETag"].endswith('-3"'), "S3's own count of the parts"


def test_an_upload_that_fails_leaves_no_parts(s3: Any) -> None:
    blocks = {name: block for name, block in BLOCKS.items() if name != NAMES[4]}
    with pytest.raises(StoreUnavailable):
        run_story(lambda: S3BlockStore(s3, BUCKET, PART_BYTES).keep(STREAM, INDEX, blocks.get))
    assert not s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_a_cancelled_upload_ends_at_once_and_leaves_nothing(s3: Any) -> None:
    begun, resume, reads = threading.Event(), threading.Event(), list[str]()

    def read(name: str) -> bytes:
        reads.append(name)
        if len(reads) == 2:
            begun.set()
            assert resume.wait(10)
        return BLOCKS[name]

    async def story() -> None:
        store = S3BlockStore(s3, BUCKET, PART_BYTES)
        keeping = asyncio.create_task(store.keep(STREAM, INDEX, read))
        assert await asyncio.to_thread(begun.wait, 10)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        resume.set()
        store._pool.shutdown()  # waits for its threads

    run_story(story)
    assert reads == list(NAMES[:2])
    assert not s3.list_objects_v2(Bucket=BUCKET).get("Contents")


def test_an_invalid_index_and_a_missing_bucket_are_no_answers(s3: Any) -> None:
    store = S3BlockStore(s3, BUCKET)
    s3.put_object(Bucket=BUCKET, Key=index_key(MADE, STREAM), Body=b"{}")
    with pytest.raises(StoreUnavailable, match="not an index"):
        run_story(lambda: store.index(MADE, STREAM))
    nowhere = S3BlockStore(s3, "no-such-bucket")
    with pytest.raises(StoreUnavailable):
        run_story(lambda: nowhere.index(MADE, STREAM))
    with pytest.raises(StoreUnavailable):
        run_story(lambda: nowhere.keep(STREAM, INDEX, BLOCKS.get))
    gone = replace(INDEX, object_key="kv/gone")
    with pytest.raises(StoreUnavailable):
        run_story(lambda: store.fetch(gone, next(plan_batches(gone, lambda _: True))))
