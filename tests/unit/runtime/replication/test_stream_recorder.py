"""The task that records a node's streams: late where AWS is away, and in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from node_agent.contract.errors import StaleEpoch, StoreUnavailable
from node_agent.contract.open_streams import OpenStream, OpenStreams
from node_agent.contract.ownership import Ownership
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import StreamStatus
from node_agent.core.journal.epochs import Epoch
from node_agent.core.replication.owned_streams import WRITE_EVERY_S
from node_agent.core.replication.replica_store import EndReason, ReplicaStore
from node_agent.core.replication.replicated_log import CloseReason, ReplicatedLog
from node_agent.runtime.replication import stream_recorder
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.runtime.replication.stream_recorder import StreamRecorder
from node_agent.testing.fakes import MemoryStreamRecords
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import make_node

STREAM = "ab" * 12
LIFE = 2**40


class SilentLinks:
    """Replicas that acknowledge nothing."""

    is_late = False

    def connect(self, *_: object) -> SilentLinks:
        return self

    def send(self, message: bytes, receipt: object = None) -> None:
        """Lose the message."""

    def close(self) -> None:
        """Nothing to close."""


class Stage:
    """A node with its recorder, which runs on virtual time."""

    def __init__(self) -> None:
        self.records = MemoryStreamRecords()
        self.node = make_node(0)
        self.node.wall_clock = asyncio.get_running_loop().time
        self.store = ReplicaStore()
        self.recorder = StreamRecorder(self.node, self.store, self.records)
        self.manager = ReplicationManager(self.node, SilentLinks(), self.store, recorder=self.recorder)

    def open(self, epoch: int = 1) -> Any:
        return self.manager.open_stream(ReplicatedLog(STREAM, Epoch(epoch, "i-0"), b"h"), None)

    def count(self, outcome: str) -> float:
        return float(self.node.metrics.stream_records.labels(outcome)._value.get())


def play(story: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        stage = Stage()
        running = asyncio.create_task(stage.recorder.run())
        await story(stage)
        running.cancel()

    run_virtual(run)


def test_an_open_stream_is_in_the_table_within_the_interval_and_leaves_it_at_its_end() -> None:
    async def story(stage: Stage) -> None:
        await asyncio.sleep(1)
        stream = stage.open()
        await asyncio.sleep(WRITE_EVERY_S)
        assert [each.stream for each in stage.records.open["i-0"].streams] == [STREAM]
        stream.close(CloseReason.FINISHED)
        await asyncio.sleep(WRITE_EVERY_S)
        assert stage.records.open["i-0"].streams == ()
        assert stage.records.owned == {}

    play(story)


def test_a_thousand_tokens_cause_no_write() -> None:
    async def story(stage: Stage) -> None:
        stream = stage.open()
        stream.deliver = lambda data: None
        await asyncio.sleep(1)
        before = stage.count("open-streams")
        for number in range(1, 1001):
            stream.log.lines += b"x\n"
            stream.write(number, b"x")
            await asyncio.sleep(0.001)
        assert stage.count("open-streams") == before

    play(story)


def test_while_aws_is_away_the_record_is_late_and_the_stream_is_not() -> None:
    async def story(stage: Stage) -> None:
        stage.records.unavailable = True
        stream = stage.open(epoch=2)
        delivered: list[bytes] = []
        stream.deliver = delivered.append
        await asyncio.sleep(10 * WRITE_EVERY_S)
        stream.log.lines += b"x\n"
        stream.write(1, b"x")
        await asyncio.sleep(2)
        assert delivered == [b"x"]
        assert 9 <= stage.count("failed") <= 12, "tried again every 15 s, not in a hurry"
        stage.records.unavailable = False
        await asyncio.sleep(WRITE_EVERY_S)
        assert stage.records.owned[STREAM].status is StreamStatus.OPEN
        assert stage.records.open["i-0"].streams[0].seq == 1

    play(story)


def test_a_call_that_never_ends_is_given_up_and_tried_again() -> None:
    class Silent(MemoryStreamRecords):
        calls = 0

        async def read_open(self, instance_id: str) -> OpenStreams | None:
            self.calls += 1
            await asyncio.sleep(10_000 if self.calls == 1 else 0)
            return None

    async def story(stage: Stage) -> None:
        stage.recorder._records = silent = Silent()
        stage.open()
        await asyncio.sleep(200)
        assert "i-0" in silent.open

    play(story)


def test_a_drain_is_written_at_once_and_its_ends_before_the_node_ends() -> None:
    async def story(stage: Stage) -> None:
        stream = stage.open()
        await asyncio.sleep(1)
        stage.recorder.on_state(NodeState.DRAINING, 121.0)
        await asyncio.sleep(0.1)
        assert stage.records.open["i-0"].deadline == 121.0
        stream.close(CloseReason.MOVED)
        await stage.recorder.flush(2.0)
        assert stage.records.owned[STREAM].status is StreamStatus.HANDED_OFF
        assert stage.records.open["i-0"].streams == ()

    play(story)


def test_a_flush_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(MemoryStreamRecords):
        async def write_open(self, record: OpenStreams) -> None:
            await asyncio.sleep(100)

    async def story(stage: Stage) -> None:
        stage.recorder._records = Slow()
        stage.open()
        began = asyncio.get_running_loop().time()
        await stage.recorder.flush(2.0)
        assert asyncio.get_running_loop().time() - began < 2.1

    play(story)
    assert "took longer" in caplog.text


def test_a_restarted_agent_orphans_the_streams_of_the_one_before() -> None:
    async def story(stage: Stage) -> None:
        streams = (OpenStream("cd" * 12, 1, "i-0", 9, 1.0, ("i-1",)),)
        stage.records.open["i-0"] = OpenStreams("i-0", 0, streams, LIFE, {"i-1": "10.0.0.1:8001"})
        await asyncio.sleep(1)
        orphan = stage.records.owned["cd" * 12]
        assert orphan.status is StreamStatus.ORPHANED
        assert orphan.replicas == {"i-1": "10.0.0.1:8001"}

    play(story)


def test_a_newer_incarnation_is_left_alone() -> None:
    async def story(stage: Stage) -> None:
        newer = OpenStreams("i-0", 99, (), LIFE)
        stage.records.open["i-0"] = newer
        stage.open()
        await asyncio.sleep(3 * WRITE_EVERY_S)
        assert stage.records.open["i-0"] == newer

    play(story)


def test_a_lost_peers_finished_stream_is_closed() -> None:
    async def story(stage: Stage) -> None:
        stage.store.open(STREAM, Epoch(1, "i-1"), b"h", 1, b"x\n", stage.node.wall_clock())
        stage.store.end(STREAM, Epoch(1, "i-1"), EndReason.FINISHED)
        stage.recorder.on_peer_lost("i-1")
        await asyncio.sleep(WRITE_EVERY_S)
        assert stage.records.owned[STREAM].status is StreamStatus.CLOSED

    play(story)


FOUND = Ownership(STREAM, 1, "i-1", StreamStatus.ORPHANED, 9, 1.0, 2.0, LIFE, {"i-7": "10.0.0.7:8001", "i-0": "x"})


@pytest.mark.parametrize(
    ("change", "replicas"),
    [
        ({}, {"i-7": "10.0.0.7:8001"}),
        ({"status": StreamStatus.OPEN}, {"i-7": "10.0.0.7:8001"}),
        ({"status": StreamStatus.HANDED_OFF}, {"i-7": "10.0.0.7:8001"}),
        ({"status": StreamStatus.CLOSED}, {}),
        ({"expires_at": 0}, {}),
    ],
    ids=str,
)
def test_the_replicas_of_a_stream_are_found(change: dict[str, Any], replicas: dict[str, str]) -> None:
    async def story(stage: Stage) -> None:
        stage.records.owned[STREAM] = Ownership(**{**FOUND.__dict__, **change})
        assert await stage.recorder.find(STREAM) == replicas
        assert await stage.recorder.find("cd" * 12) == {}
        assert await stage.recorder.find("no stream of this fleet") == {}

    play(story)


@pytest.mark.parametrize("fault", ["away", "silent"])
def test_a_look_up_that_fails_is_no_answer_in_time(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(MemoryStreamRecords):
        async def find(self, stream: str) -> Ownership | None:
            if fault == "away":
                raise StoreUnavailable("away")
            await asyncio.sleep(100)
            return None

    async def story(stage: Stage) -> None:
        stage.recorder._records = Odd()
        began = asyncio.get_running_loop().time()
        assert await stage.recorder.find(STREAM) is None
        assert asyncio.get_running_loop().time() - began <= stream_recorder._FIND_TIMEOUT_S + 0.1

    play(story)


def test_without_a_table_nothing_is_recorded_and_nothing_is_found() -> None:
    async def run() -> None:
        recorder = StreamRecorder(make_node(0), ReplicaStore(), None)
        recorder.opened(ReplicatedLog(STREAM, Epoch(1, "i-0"), b"h"))
        recorder.on_peer_lost("i-1")
        await recorder.run()
        await recorder.flush(1.0)
        assert len(recorder.streams) == 0
        assert await recorder.find(STREAM) == {}

    run_virtual(run)


def test_a_stale_write_is_no_failure() -> None:
    class Stale(MemoryStreamRecords):
        async def write_open(self, record: OpenStreams) -> None:
            raise StaleEpoch("another")

    async def story(stage: Stage) -> None:
        stage.recorder._records = Stale()
        stage.open()
        await asyncio.sleep(1)
        assert stage.count("failed") == 0

    play(story)
