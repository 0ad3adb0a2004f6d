"""The blocks in the engine's folder: what is missing, and what may be stored."""

from __future__ import annotations

import os
from pathlib import Path

from node_agent.kv.folder import BlockFolder
from tests.unit.runtime.kv.kv_stage import MADE, STREAM, lay, run, shelf


def test_the_local_blocks_of_a_context_are_marked_used_before_the_rest_is_fetched(tmp_path: Path) -> None:
    async def story() -> None:
        names = lay(tmp_path)
        here = shelf(tmp_path)
        folder = BlockFolder(tmp_path, 10**9)
        for name in names:
            os.utime(folder.path(name), (1.0, 1.0))
        index = await here.index(STREAM)
        assert index is not None
        folder.remove(names[-1])
        assert await here.missing(index) == {names[-1]}
        assert all(folder.path(name).stat().st_mtime > 1.0 for name in names[:-1])

    run(story)


def test_blocks_of_another_engine_are_not_stored(tmp_path: Path) -> None:
    async def story() -> None:
        names = lay(tmp_path / "theirs")
        data = memoryview(BlockFolder(tmp_path / "theirs", 10**9).read(names[0]) or b"")
        mine = shelf(tmp_path / "mine")
        assert await mine.store(bytes([1] * 16), [(names[0], data)]) == (0, 0)
        assert await mine.store(MADE, [(names[1], data)]) == (0, 0)
        assert await mine.store(MADE, [(names[0], data), (names[1], data)]) == (1, len(data))

    run(story)
