"""The threads behind the engine's steps: blocks written as far as the disk follows, loaded as far as they are whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node_agent.core.kv.blocks import HEADER_BYTES, block_defect, block_name, chain, chain_root
from node_agent.kv.folder import BlockFolder
from node_agent.kv.loader import Loader
from node_agent.kv.requests import Load, Save
from node_agent.kv.writer import CopiedBlock, LastBlock, Writer

MADE = bytes(16)
KEYS = chain(chain_root(MADE), range(80), 4)
PAYLOADS = [bytes([place]) * 100 for place in range(len(KEYS))]
WITHIN_S = 10.0


def save(place: int, request: str = "r") -> Save:
    return Save(place, KEYS[place], KEYS[place - 1] if place else chain_root(MADE), place, request)


def eventually(check: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not check():
        assert time.monotonic() < give_up_at
        threading.Event().wait(0.001)


@pytest.fixture
def folder(tmp_path: Path) -> BlockFolder:
    return BlockFolder(tmp_path, 10**6)


def kept(folder: BlockFolder, *places: int) -> None:
    writer = Writer(folder, MADE)
    for place in places:
        assert writer.reserve(save(place), 100)
        writer.enqueue([CopiedBlock(save(place), lambda place=place: memoryview(PAYLOADS[place]), 100)])  # type: ignore[misc]
    writer.close(WITHIN_S)


def test_a_written_block_is_complete_and_its_request_has_a_head(folder: BlockFolder) -> None:
    kept(folder, 0, 1, 2)
    for place in range(3):
        data = folder.read(block_name(KEYS[place]))
        assert data is not None
        assert block_defect(data, MADE, block_name(KEYS[place])) is None
        assert data[HEADER_BYTES:] == PAYLOADS[place]
    assert folder.last_blocks() == {"r": KEYS[2]}


def test_a_head_that_was_kept_before_is_noted(folder: BlockFolder) -> None:
    writer = Writer(folder, MADE)
    writer.enqueue([LastBlock("r", KEYS[4])])
    writer.close(WITHIN_S)
    assert folder.last_blocks() == {"r": KEYS[4]}


def test_only_the_first_shard_notes_heads(folder: BlockFolder) -> None:
    writer = Writer(folder, MADE, shard=1, shards=2)
    writer.enqueue([LastBlock("r", KEYS[4])])
    writer.close(WITHIN_S)
    assert folder.last_blocks() == {}


def test_a_full_queue_drops_blocks_and_leaves_no_gap(folder: BlockFolder) -> None:
    writer, go_on = Writer(folder, MADE, max_bytes=250), threading.Event()

    def slow() -> memoryview:
        assert go_on.wait(WITHIN_S)
        return memoryview(PAYLOADS[0])

    assert writer.reserve(save(0), 100)
    assert writer.reserve(save(1), 100)
    writer.enqueue([CopiedBlock(save(0), slow, 100), CopiedBlock(save(1), lambda: memoryview(PAYLOADS[1]), 100)])
    assert not writer.reserve(save(2), 100), "the bound"
    go_on.set()
    eventually(lambda: writer.counts.kept == 2)
    assert not writer.reserve(save(3), 100), "this request has a gap: what is behind it would be worth nothing"
    assert writer.reserve(save(3, "another"), 100)
    writer.remove_finished(["r"])
    assert writer.reserve(save(3), 100)
    assert writer.counts.dropped == 1
    writer.close(WITHIN_S)


def test_a_disk_that_refuses_writes_costs_only_blocks(folder: BlockFolder) -> None:
    writer = Writer(folder, MADE)

    def broken() -> memoryview:
        raise OSError("no space left on device")

    assert writer.reserve(save(0), 100)
    writer.enqueue([CopiedBlock(save(0), broken, 100)])
    eventually(lambda: writer.counts.failed == 1)
    assert writer.reserve(save(1), 100)
    writer.enqueue([CopiedBlock(save(1), lambda: memoryview(PAYLOADS[1]), 100)])
    eventually(lambda: writer.counts.kept == 1)
    writer.close(WITHIN_S)


class Cache:
    """The engine's: payloads by block id."""

    def __init__(self) -> None:
        self.held: dict[int, bytes] = {}

    def put(self, block_id: int, payload: memoryview) -> None:
        if len(payload) != 100:
            raise ValueError("another size")
        self.held[block_id] = bytes(payload)


def load(folder: BlockFolder, *places: int) -> tuple[Cache, set[int]]:
    cache = Cache()
    loader = Loader(folder, MADE, cache.put, lambda: None)
    loader.start(Load("r", tuple((50 + place, KEYS[place]) for place in places)))
    over: list[tuple[set[str], set[int]]] = []

    def ended() -> bool:
        over.append(loader.finished())
        return bool(over[-1][0])

    eventually(ended)
    assert loader.finished() == (set(), set())
    loader.close()
    assert over[-1][0] == {"r"}
    return cache, over[-1][1]


def test_blocks_are_loaded_into_their_places(folder: BlockFolder) -> None:
    kept(folder, *range(10))
    cache, broken = load(folder, *range(10))
    assert not broken
    assert cache.held == {50 + place: PAYLOADS[place] for place in range(10)}


@pytest.mark.parametrize("damage", ["missing", "damaged", "half"])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_after_the_first_unusable_block_all_are_broken(folder: BlockFolder, damage: str, at: int) -> None:
    kept(folder, *range(10))
    path = folder.path(block_name(KEYS[at]))
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-1] + b"\xff" if damage == "damaged" else data[:50])
    cache, broken = load(folder, *range(10))
    assert broken == {50 + place for place in range(at, 10)}
    assert all(cache.held[50 + place] == PAYLOADS[place] for place in range(at))
    assert not path.exists(), "so that it is kept again once it was computed"


def test_a_block_of_another_size_is_broken(folder: BlockFolder) -> None:
    writer = Writer(folder, MADE)
    writer.reserve(save(0), 7)
    writer.enqueue([CopiedBlock(save(0), lambda: memoryview(b"seven by"), 7)])
    writer.close(WITHIN_S)
    _, broken = load(folder, 0)
    assert broken == {50}
