"""Blocks in a folder: whole or not there, bounded, the least used first to go."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from node_agent.kv import folder as folder_module
from node_agent.kv.folder import LAST_BLOCKS, BlockFolder

BLOCK = 1000


def name(number: int) -> str:
    return f"{number:064x}.kv"


def held(folder: BlockFolder) -> list[str]:
    return sorted(path.name for path in folder.root.rglob("*.kv"))


def test_a_block_round_trips(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "not there yet", 10**6)
    assert folder.read(name(1)) is None
    assert not folder.contains(name(1))
    assert folder.write(name(1), b"head", memoryview(b"payload"))
    assert folder.contains(name(1))
    assert bytes(folder.read(name(1)) or b"") == b"headpayload"
    assert folder.read_prefix(name(1), 4) == b"head"
    assert (folder.size(name(1)), folder.size(name(2)), folder.read_prefix(name(2), 4)) == (11, None, None)
    folder.remove(name(1))
    folder.remove(name(1))
    assert not folder.contains(name(1))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 10**6)
    with pytest.raises(TypeError):
        folder.write(name(1), b"head", 7)  # type: ignore[arg-type]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_block_that_is_being_written_has_no_name_yet(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 10**6)
    seen: list[bool] = []

    class Slow(bytes):
        def __len__(self) -> int:
            seen.append(folder.contains(name(1)))
            return super().__len__()

    folder.write(name(1), b"head", Slow(b"payload"))
    assert seen
    assert not any(seen)


def test_the_bound_holds_and_the_least_recently_used_are_removed_first(tmp_path: Path) -> None:
    bound = 32 * BLOCK
    folder = BlockFolder(tmp_path, bound)
    for number in range(200):
        folder.write(name(number), bytes(BLOCK))
        os.utime(folder.path(name(number)), (number, number))
        if number == 20:
            keep = folder.path(name(0))
        if number >= 20:
            os.utime(keep, (number, number))
        assert len(held(folder)) * BLOCK <= bound
    names = held(folder)
    assert name(0) in names, "it was used again and again"
    assert names[1:] == [name(number) for number in range(200 - len(names) + 1, 200)]
    assert len(names) * BLOCK >= bound // 2, "the room is used"


def test_the_bound_holds_for_several_writers_at_once(tmp_path: Path) -> None:
    bound = 64 * BLOCK

    def write(start: int) -> None:
        folder = BlockFolder(tmp_path, bound, writers=3)
        for number in range(start, start + 100):
            folder.write(name(number), bytes(BLOCK))

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held(BlockFolder(tmp_path, bound))) * BLOCK <= bound


def test_blocks_of_an_earlier_process_are_counted(tmp_path: Path) -> None:
    large = BlockFolder(tmp_path, 10**6)
    for number in range(100):
        large.write(name(number), bytes(BLOCK))
    small = BlockFolder(tmp_path, 32 * BLOCK)
    small.write(name(1000), bytes(BLOCK))
    assert len(held(small)) <= 32


def test_a_block_above_its_share_is_refused(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 16 * BLOCK)
    assert not folder.write(name(1), bytes(16 * BLOCK))
    assert not folder.contains(name(1))


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 10**6)
    folder.write(name(1), b"x")
    fresh, old = (folder.path(name(1)).with_suffix(suffix) for suffix in (".kv.1.0.tmp", ".kv.1.1.tmp"))
    for path in (fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    folder.evict()
    assert (fresh.exists(), old.exists(), folder.contains(name(1))) == (True, False, True)


def test_the_layout_is_complete_or_absent(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "x", 10**6)
    assert folder.read_layout() is None
    folder.write_layout({"block_tokens": 16})
    assert folder.read_layout() == {"block_tokens": 16}
    (folder.root / folder_module.LAYOUT).write_text("[]")
    assert folder.read_layout() is None
    (folder.root / folder_module.LAYOUT).write_text("{")
    assert folder.read_layout() is None


def test_the_latest_head_of_a_stream_wins_and_half_a_line_is_ignored(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 10**6)
    assert folder.last_blocks() == {}
    folder.append_last_blocks({"a b": b"\x01", "c": b"\x02"})
    folder.append_last_blocks({"a b": b"\x03"})
    with (tmp_path / LAST_BLOCKS).open("a") as file:
        file.write("d 0")
    assert list(folder.last_blocks().items()) == [("c", b"\x02"), ("a b", b"\x03")]


def test_the_list_of_heads_is_bounded_and_keeps_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "MAX_LAST_BLOCKS_BYTES", 500)
    folder = BlockFolder(tmp_path, 10**6)
    for number in range(200):
        folder.append_last_blocks({f"request-{number}": bytes(32)})
    assert sum(path.stat().st_size for path in tmp_path.glob("heads.*")) < 2 * 700
    assert list(folder.last_blocks())[-1] == "request-199"
    assert list(folder.last_blocks("t-199")) == ["request-199"]
    assert list(folder.last_blocks("t-19")) == [request for request in folder.last_blocks() if "t-19" in request]
    assert folder.last_blocks("request-200") == {}


def test_a_use_is_noted_and_that_of_a_missing_block_is_none(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 10**6)
    folder.write(name(1), b"x")
    os.utime(folder.path(name(1)), (1, 1))
    folder.touch(name(1))
    folder.touch(name(2))
    assert folder.path(name(1)).stat().st_mtime > 1


@pytest.fixture
def trap(tmp_path: Path) -> BlockFolder:
    """A folder in which a compromised engine, the agent's neighbour, has set links and FIFOs for every name."""
    own = tmp_path / "of-the-agent"
    own.mkdir()
    (own / name(0)).write_bytes(b"secret")
    (own / "old").write_bytes(b"secret")
    os.utime(own / "old", (1, 1))
    folder = BlockFolder(tmp_path / "kv", 10**6)
    (tmp_path / "kv/01").mkdir(parents=True)
    (tmp_path / "kv/00").symlink_to(own)
    (tmp_path / "kv/01" / ("01" + name(0)[2:])).symlink_to(own / name(0))
    os.mkfifo(tmp_path / "kv/01" / ("01" + name(1)[2:]))
    (tmp_path / "kv/layout.json").symlink_to(own / name(0))
    os.mkfifo(tmp_path / "kv/heads.log")
    return folder


@pytest.mark.parametrize("block", [name(0), "01" + name(0)[2:], "01" + name(1)[2:]])
def test_a_link_or_a_fifo_of_the_engine_is_no_block(trap: BlockFolder, block: str) -> None:
    assert (trap.read(block), trap.read_prefix(block, 4), trap.size(block)) == (None, None, None)


def test_no_link_of_the_engine_leads_the_agent_to_its_own_files(trap: BlockFolder, tmp_path: Path) -> None:
    own = tmp_path / "of-the-agent"
    before = (own / name(0)).stat().st_mtime_ns
    trap.touch(name(0))
    trap.remove(name(0))
    trap.evict()
    with pytest.raises(OSError, match=r"exists|no folder|Not a directory"):
        trap.write(name(2), b"block")
    assert sorted(path.name for path in own.iterdir()) == [name(0), "old"]
    assert (own / name(0)).stat().st_mtime_ns == before


def test_no_fifo_of_the_engine_holds_the_agent(trap: BlockFolder) -> None:
    assert trap.read_layout() is None
    assert trap.last_blocks() == {}


def test_a_file_beyond_the_bound_is_not_read_into_memory(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, 10**6)
    folder.write(name(1), b"block")
    os.truncate(folder.path(name(1)), 2**40)
    with pytest.raises(OSError, match="more than"):
        folder.read(name(1))
