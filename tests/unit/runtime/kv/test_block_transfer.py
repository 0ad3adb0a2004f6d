"""Transfers of a context's blocks: in batches, bounded, and only blocks that are what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from node_agent.contract.names import IN_S3
from node_agent.core.kv.transfer_policy import ContextSource
from node_agent.runtime.kv import block_transfer
from node_agent.runtime.kv.block_transfer import MAX_CONCURRENCY
from tests.unit.runtime.kv.kv_stage import SIZE, STREAM, AnsweringPeer, Store, contexts, in_s3, lay, run, shelf


def test_a_context_comes_from_s3_in_batches_a_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_transfer, "BATCH_BYTES", 2 * SIZE)

    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        mine = shelf(tmp_path / "mine")
        fetched = await contexts(mine, store).fetch(STREAM, IN_S3)
        assert fetched is not None
        assert (fetched.choice.source, fetched.blocks) == (ContextSource.S3, 30)
        assert len(store.batches) == 30
        assert 1 < store.most_at_once <= MAX_CONCURRENCY
        again = await contexts(mine, store).fetch(STREAM, IN_S3)
        assert again is not None
        assert again.choice.reason == "nothing is missing"

    run(story)


def test_after_a_failed_batch_no_other_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_transfer, "BATCH_BYTES", 2 * SIZE)

    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        store.broken_after = 6
        fetched = await contexts(shelf(tmp_path / "mine"), store).fetch(STREAM, IN_S3)
        assert fetched is not None
        assert fetched.blocks == 6
        assert len(store.batches) <= 6 + MAX_CONCURRENCY

    run(story)


@pytest.mark.parametrize(
    "what", ["nothing", "noise", "a header and no end", "another block", "more than was requested"]
)
def test_invalid_blocks_are_not_stored(tmp_path: Path, what: str) -> None:
    async def story() -> None:
        names = lay(tmp_path / "theirs", blocks=3)
        theirs = shelf(tmp_path / "theirs")
        index = await theirs.index(STREAM)
        assert index is not None
        first, second = (theirs.read_one(name) or b"" for name in names[:2])
        blocks = {
            "nothing": b"",
            "noise": bytes(range(256)) * 100,
            "a header and no end": first[:-1],
            "another block": second + first,
            "more than was requested": first * 4,
        }[what]
        mine = shelf(tmp_path / "mine")
        fetched = await contexts(mine, None, peers=AnsweringPeer(index.to_bytes(), bytes(blocks))).fetch(STREAM, "i-1")
        assert fetched is not None
        assert fetched.blocks == 0
        assert await mine.missing(index) == frozenset(names)

    run(story)
