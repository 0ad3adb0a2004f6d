"""Leaving contexts in S3: which, how many at once, and when no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from node_agent.contract.errors import StoreUnavailable
from node_agent.core.kv.index import Index, index_key
from node_agent.kv.folder import BlockFolder
from node_agent.runtime.kv.uploader import MAX_CONCURRENCY as LEFT_AT_ONCE
from tests.scenarios.local_fleet import eventually
from tests.unit.runtime.kv.kv_stage import (
    FAST,
    MADE,
    STREAM,
    Store,
    lay,
    make_node,
    over,
    run,
    shelf,
    uploader,
)


def test_the_longest_context_is_uploaded_first_and_cheap_ones_are_not(tmp_path: Path) -> None:
    async def story() -> None:
        here, store, node = shelf(tmp_path), Store(), make_node()
        streams = {"aa" * 12: 3, "bb" * 12: 20, "cc" * 12: 10}
        for stream, blocks in streams.items():
            lay(tmp_path, stream, blocks)
        leaver = uploader(node, here, store)
        leaver.handed_off([*streams, "dd" * 12, "not a stream"])
        assert leaver.pending_uploads() == 1
        await over(leaver)
        assert store.kept == ["bb" * 12, "cc" * 12, "aa" * 12]
        quick = uploader(node, here, store, FAST)
        quick.handed_off(list(streams))
        await over(quick)
        assert len(store.kept) == 3
        store.down = True
        leaver.handed_off(list(streams))
        await over(leaver)
        exposed = node.metrics.exposition().decode()
        for outcome in ("left", "not-worth-it", "failed"):
            assert f'synkti_contexts_uploaded_total{{outcome="{outcome}"}} 3.0' in exposed

    run(story)


def test_few_contexts_are_uploaded_at_once_the_longest_waiting_one_first(tmp_path: Path) -> None:
    async def story() -> None:
        here, store, node = shelf(tmp_path), Store(), make_node()
        lengths = {f"{number:024x}": number for number in (2, 3, 4, 5, 6, 7, 8, 9)}
        for stream, blocks in lengths.items():
            lay(tmp_path, stream, blocks, 1_000)
        may_write, writing = asyncio.Event(), Counter[str]()
        began, keep = list[str](), store.keep

        async def slow(stream: str, index: Index, read: Callable[[str], bytes | bytearray | None]) -> None:
            began.append(stream)
            writing["now"] += 1
            writing["most"] = max(writing["most"], writing["now"])
            await may_write.wait()
            writing["now"] -= 1
            await keep(stream, index, read)

        store.keep = slow  # type: ignore[method-assign]
        leaver = uploader(node, here, store)
        for stream in lengths:  # as a drain that plans again and again
            leaver.handed_off([stream])

        async def full() -> bool:
            return writing["now"] == LEFT_AT_ONCE and leaver.pending_uploads() == LEFT_AT_ONCE

        await eventually("some are being written, the others wait", full)
        may_write.set()
        await over(leaver)
        assert writing["most"] == LEFT_AT_ONCE
        waited = [lengths[stream] for stream in began[LEFT_AT_ONCE:]]
        assert waited == sorted(waited, reverse=True)
        assert len(store.kept) == len(lengths)

    run(story)


def test_a_node_that_stops_cancels_its_uploads(tmp_path: Path) -> None:
    async def story() -> None:
        here, store = shelf(tmp_path), Store()
        lay(tmp_path)

        async def stuck(*_: object) -> None:
            await asyncio.Event().wait()

        store.keep = stuck  # type: ignore[method-assign, assignment]
        leaver = uploader(make_node(), here, store)
        leaver.handed_off([STREAM])
        assert leaver.pending_uploads() == 1
        leaver.close()
        await over(leaver)

    run(story)


def test_a_block_evicted_during_an_upload_leaves_no_index(tmp_path: Path) -> None:
    async def story() -> None:
        here, store = shelf(tmp_path), Store()
        names = lay(tmp_path)
        index = await here.index(STREAM)
        assert index is not None
        BlockFolder(tmp_path, 10**9).remove(names[5])
        with pytest.raises(StoreUnavailable):
            await store.keep(STREAM, index, here.read_one)
        assert index_key(MADE, STREAM) not in store.objects
        assert await here.index(STREAM) is None, "the way back has a gap"

    run(story)
