"""Bringing, giving and leaving contexts: who is asked for what, the bounds, and that nothing of it fails a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local.lone_node import lone_node
from node_agent.adapters.memory import MemoryBlockStore, MemoryRequest
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.states import NodeState
from node_agent.core.addresses import Address
from node_agent.core.kv_blocks import block_name, chain, root, seal
from node_agent.core.kv_choice import Way
from node_agent.core.kv_index import Batch, Index, index_key
from node_agent.kv.folder import BlockFolder
from node_agent.ports import ExchangeLost
from node_agent.tasks import kv_bring
from node_agent.tasks.kv_bring import AT_ONCE, IN_S3, STREAMS_AT_ONCE, Brought, Contexts
from node_agent.tasks.kv_door import BLOCKS, COME_WITHIN_S, INDEX_OF, KvDoor
from node_agent.tasks.kv_leave import Leaver
from node_agent.tasks.kv_probe import PrefillProbe
from node_agent.tasks.kv_shelf import KvShelf
from node_agent.tasks.node import Node
from tests.scenarios.local_fleet import eventually
from tests.unit.tasks.a_node import status_of

MADE, SIZE, STREAM = bytes(16), 100_000, "ab" * 12
SLOW, FAST = 10.0, 1e9


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_node(state: NodeState = NodeState.DRAINING) -> Node:
    return lone_node(status_of(0), [replace(status_of(1, state), peer="10.0.0.2:1")], lambda: 0.0)


def shelf(path: Path, made: bytes = MADE) -> KvShelf:
    folder = BlockFolder(path, 10**9)
    folder.describe({"fingerprint": made.hex(), "block_tokens": 16, "shards": 1})
    return KvShelf(folder)


def lay(path: Path, stream: str = STREAM, blocks: int = 30, size: int = SIZE) -> list[str]:
    folder, parent = BlockFolder(path, 10**9), root(MADE, stream)
    keys = chain(parent, range(blocks * 16), 16)
    for place, key in enumerate(keys):
        payload = bytes([place]) * size
        folder.write(block_name(key), seal(MADE, key, parent, place, payload), payload)
        parent = key
    folder.note_heads({f"cmpl-{stream}-0": keys[-1]})
    return list(map(block_name, keys))


class Store(MemoryBlockStore):
    """Remembers what it was asked, and how much at once. broken: after so many fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.kept: list[str] = []
        self.batches: list[Batch] = []
        self.at_once = self.most_at_once = 0
        self.broken_after = 10**9
        self.stuck = False
        self.down = False

    async def index(self, fingerprint: bytes, stream: str) -> Index | None:
        self.asked.append(stream)
        if self.stuck:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await asyncio.Event().wait()
            finally:
                self.at_once -= 1
        if self.down:
            raise StoreUnavailable("S3 is down")
        return await super().index(fingerprint, stream)

    async def fetch(self, index: Index, batch: Batch) -> bytes:
        self.batches.append(batch)
        if len(self.batches) > self.broken_after:
            raise StoreUnavailable("S3 is down")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return await super().fetch(index, batch)

    async def keep(self, stream: str, index: Index, read: Callable[[str], bytes | bytearray | None]) -> None:
        if self.down:
            raise StoreUnavailable("S3 is down")
        self.kept.append(stream)
        await super().keep(stream, index, read)


class NoPeers:
    """Nobody answers; who was asked for what."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def open(self, address: Address, method: str, target: str, **_: Any) -> Any:
        self.asked.append(f"{address} {target}")
        raise ExchangeLost("refused")


async def in_s3(store: Store, path: Path, streams: dict[str, int]) -> None:
    """Another node's contexts, by the number of their blocks."""
    theirs = shelf(path)
    for stream, blocks in streams.items():
        lay(path, stream, blocks)
        index = await theirs.index(stream)
        assert index is not None
        await store.keep(stream, index, theirs.read_one)


def contexts(here: KvShelf | None, store: Store | None, node: Node | None = None, peers: Any = None) -> Contexts:
    client: Any = peers or NoPeers()
    made = Contexts(node or make_node(), client, b"key", here, store, Clock())
    made.prefill_tokens_per_s = SLOW
    return made


async def over(leaver: Leaver) -> None:
    async def none_under_way() -> bool:
        return not leaver.under_way()

    await eventually("all is left", none_under_way)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def test_a_context_comes_from_s3_in_batches_a_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_bring, "BATCH_BYTES", 2 * SIZE)

    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        mine = shelf(tmp_path / "mine")
        brought = await contexts(mine, store).bring(STREAM, IN_S3)
        assert brought is not None
        assert (brought.choice.way, brought.blocks) == (Way.S3, 30)
        assert len(store.batches) == 30
        assert 1 < store.most_at_once <= AT_ONCE
        again = await contexts(mine, store).bring(STREAM, IN_S3)
        assert again is not None
        assert again.choice.reason == "nothing is missing"

    run(story)


def test_after_a_batch_that_failed_no_other_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_bring, "BATCH_BYTES", 2 * SIZE)

    async def story() -> None:
        store = Store()
        await in_s3(store, tmp_path / "theirs", {STREAM: 30})
        store.broken_after = 6
        brought = await contexts(shelf(tmp_path / "mine"), store).bring(STREAM, IN_S3)
        assert brought is not None
        assert brought.blocks == 6
        assert len(store.batches) <= 6 + AT_ONCE

    run(story)


@pytest.mark.parametrize(
    ("source", "state", "asks"),
    [
        (IN_S3, NodeState.READY, True),
        ("i-1", NodeState.DRAINING, True),
        ("i-1", NodeState.GONE, True),
        ("i-1", NodeState.READY, False),
        ("i-1", NodeState.STARTING, False),
        ("i-forgotten", NodeState.READY, True),
        ("i-0", NodeState.DRAINING, False),
    ],
)
def test_s3_is_asked_only_where_somebody_may_have_left_something(
    tmp_path: Path, source: str, state: NodeState, asks: bool
) -> None:
    async def story() -> None:
        store, node = Store(), make_node(state)
        assert await contexts(shelf(tmp_path), store, node).bring(STREAM, source) is None
        assert bool(store.asked) is asks

    run(story)


def test_only_a_peer_that_is_alive_is_asked(tmp_path: Path) -> None:
    async def story() -> None:
        for source, state, asked in (
            ("i-1", NodeState.DRAINING, 1),
            ("i-1", NodeState.GONE, 0),
            ("i-9", NodeState.READY, 0),
        ):
            peers, node = NoPeers(), make_node(state)
            assert await contexts(shelf(tmp_path), None, node, peers).bring(STREAM, source) is None
            assert peers.asked == [f"10.0.0.2:1 {INDEX_OF}{STREAM}"] * asked

    run(story)


def test_without_blocks_of_its_own_a_node_asks_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        store, peers = Store(), NoPeers()
        assert await contexts(None, store, peers=peers).bring(STREAM, "i-1") is None
        silent = KvShelf(BlockFolder(tmp_path / "nothing said", 10**9))
        assert await contexts(silent, store, peers=peers).bring(STREAM, "i-1") is None
        declined = BlockFolder(tmp_path / "declined", 10**9)
        declined.describe({"declined": "made for another vLLM"})
        assert await contexts(KvShelf(declined), store, peers=peers).bring(STREAM, "i-1") is None
        odd = BlockFolder(tmp_path / "odd", 10**9)
        odd.describe({"fingerprint": "zz"})
        assert await contexts(KvShelf(odd), store, peers=peers).bring(STREAM, "i-1") is None
        assert await contexts(shelf(tmp_path / "x"), store, peers=peers).bring("../x", "i-1") is None
        assert not store.asked
        assert not peers.asked

    run(story)


def test_a_store_that_is_down_or_stuck_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_bring, "WITHIN_S", 0.05)

    async def story() -> None:
        down, stuck = Store(), Store()
        down.down = stuck.stuck = True
        assert await contexts(shelf(tmp_path), down).bring(STREAM, IN_S3) is None
        brought = await contexts(shelf(tmp_path), stuck).bring(STREAM, IN_S3)
        assert brought is not None
        assert brought.choice.way is Way.RECOMPUTE
        assert "no context within" in brought.choice.reason

    run(story)


def test_few_contexts_are_brought_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_bring, "WITHIN_S", 0.2)

    async def story() -> None:
        store = Store()
        store.stuck = True
        bringing = contexts(shelf(tmp_path), store)
        streams = [f"{number:024x}" for number in range(2 * STREAMS_AT_ONCE)]
        results = await asyncio.gather(*(bringing.bring(stream, IN_S3) for stream in streams))
        assert store.most_at_once == STREAMS_AT_ONCE
        assert all(isinstance(brought, Brought) for brought in results)

    run(story)


def test_the_longest_context_is_left_first_and_none_that_is_computed_faster(tmp_path: Path) -> None:
    async def story() -> None:
        here, store, node = shelf(tmp_path), Store(), make_node()
        streams = {"aa" * 12: 3, "bb" * 12: 20, "cc" * 12: 10}
        for stream, blocks in streams.items():
            lay(tmp_path, stream, blocks)
        leaver = Leaver(node, contexts(here, store), here, store)
        leaver.handed_off([*streams, "dd" * 12, "not a stream"])
        assert leaver.under_way() == 1
        await over(leaver)
        assert store.kept == ["bb" * 12, "cc" * 12, "aa" * 12]
        fast = contexts(here, store)
        fast.prefill_tokens_per_s = FAST
        quick = Leaver(node, fast, here, store)
        quick.handed_off(list(streams))
        await over(quick)
        assert len(store.kept) == 3
        store.down = True
        leaver.handed_off(list(streams))
        await over(leaver)
        told = node.metrics.exposition().decode()
        for outcome in ("left", "not-worth-it", "failed"):
            assert f'synkti_contexts_left_total{{outcome="{outcome}"}} 3.0' in told

    run(story)


def test_a_block_that_is_evicted_while_it_is_left_leaves_no_index(tmp_path: Path) -> None:
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


def test_the_door_waits_for_those_who_come_and_not_for_ever(tmp_path: Path) -> None:
    async def story() -> None:
        clock = Clock()
        door = KvDoor(shelf(tmp_path), clock)
        names = lay(tmp_path)
        door.handed_off([STREAM, "cd" * 12, "not a stream"])
        assert door.owed() == 2
        await door.answer(nobodys := MemoryRequest(target=INDEX_OF + "cd" * 12))
        assert (nobodys.status, door.owed()) == (404, 1), "nothing to come for"
        clock.now += 0.9 * COME_WITHIN_S
        await door.answer(MemoryRequest(target=INDEX_OF + STREAM))
        clock.now += 0.9 * COME_WITHIN_S
        body = f'["{names[0]}"]'.encode()
        await door.answer(came := MemoryRequest("POST", BLOCKS, body=body))
        assert len(came.answer) > SIZE
        assert door.owed() == 1
        clock.now += 1.1 * COME_WITHIN_S
        assert door.owed() == 0

    run(story)


def test_an_answer_is_bounded_but_never_empty_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.tasks.kv_door.BATCH_BYTES", SIZE // 2)

    async def story() -> None:
        door, names = KvDoor(shelf(tmp_path), Clock()), lay(tmp_path)
        body = f'["{names[0]}","{names[1]}"]'.encode()
        await door.answer(request := MemoryRequest("POST", BLOCKS, body=body))
        assert SIZE < len(request.answer) < 2 * SIZE

    run(story)


def test_what_came_of_another_engine_is_not_kept(tmp_path: Path) -> None:
    async def story() -> None:
        names = lay(tmp_path / "theirs")
        data = memoryview(BlockFolder(tmp_path / "theirs", 10**9).read(names[0]) or b"")
        mine = shelf(tmp_path / "mine")
        assert await mine.keep(bytes([1] * 16), [(names[0], data)]) == (0, 0)
        assert await mine.keep(MADE, [(names[1], data)]) == (0, 0)
        assert await mine.keep(MADE, [(names[0], data), (names[1], data)]) == (1, len(data))

    run(story)


class Answer:
    status = 200

    def __init__(self, clock: Clock, took_s: float, status: int) -> None:
        self._clock, self._took_s, self.status = clock, took_s, status

    async def read_all(self, _: int) -> bytes:
        self._clock.now += self._took_s
        return b"{}"

    def close(self) -> None:
        """Nothing is open."""


class Timed:
    """An engine that computes 1,000 tokens/s, and takes 50 ms besides; `longest`: what it takes at most."""

    def __init__(self, clock: Clock, longest: int = 10**6, each_s: float = 0.001) -> None:
        self._clock, self._longest, self._each_s = clock, longest, each_s
        self.ids: list[str] = []
        self._warming_s = 3.0  # the first answer takes longer than any other

    async def open(self, *_: Any, headers: dict[str, str], body: bytes, **__: Any) -> Answer:
        tokens = body.count(b",") - 2
        self.ids.append(headers["x-request-id"])
        took_s = 0.05 + self._each_s * tokens + self._warming_s
        self._warming_s = 0.0
        return Answer(self._clock, took_s, 200 if tokens <= self._longest else 400)


@pytest.mark.parametrize(
    ("longest", "each_s", "rate"),
    [(10**6, 0.001, 1000.0), (512, 0.001, 1000.0), (100, 0.001, None), (10**6, 0.0, None)],
)
def test_prefill_is_measured_as_far_as_the_engine_takes_it(longest: int, each_s: float, rate: float | None) -> None:
    clock = Clock()
    engine = Timed(clock, longest, each_s)
    probe = PrefillProbe(engine, Address("h", 1), "m", lambda count, low, high: [low] * count, clock)  # type: ignore[arg-type]
    measured = asyncio.run(probe.tokens_per_s())
    assert measured == (None if rate is None else pytest.approx(rate))
    assert all("synkti-probe" in name for name in engine.ids)


def test_an_engine_that_does_not_answer_is_not_measured() -> None:
    probe = PrefillProbe(NoPeers(), Address("h", 1), "m", lambda count, low, high: [low] * count, Clock())  # type: ignore[arg-type]
    assert asyncio.run(probe.tokens_per_s()) is None


def test_the_index_of_a_stream_of_several_choices_is_its_longest(tmp_path: Path) -> None:
    async def story() -> None:
        here = shelf(tmp_path)
        short = lay(tmp_path, STREAM, 4)
        folder = BlockFolder(tmp_path, 10**9)
        keys = chain(root(MADE, STREAM), range(30 * 16), 16)
        folder.note_heads({f"cmpl-{STREAM}-1": keys[1]})
        index = await here.index(STREAM)
        assert index is not None
        assert list(index.names) == short
        assert replace(index, names=(), sizes=()).size == 0

    run(story)
