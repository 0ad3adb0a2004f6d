"""The publisher and the reactor: in order, in the background, nothing lost over failures, and bugs loud."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import RECORD_LIFE_S, NodeRecord, TimelineStep
from node_agent.contract.tags import NodeTags, decode_tags
from node_agent.core.node.lifecycle import Effect, EngineReady, Lifecycle, NoticeSeen, Retire, TermRequested, Tick
from node_agent.reactor import Reactor
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.common.supervised_task import Unexpected, keep_running
from node_agent.runtime.node import state_publisher as publishing
from node_agent.runtime.node.state_publisher import StatePublisher
from node_agent.testing.fakes import MemoryInstances, MemoryRecords

RECORD = NodeRecord("i-1", "z", "t", NodeState.STARTING, 7, 99)
STARTED = TimelineStep("started", "agent", 1.0)
READY = TimelineStep("ready", "agent", 2.0)
DRAINING = NodeTags("synkti", NodeState.DRAINING, deadline=9.0)
DRAIN = DrainRecord("i-1", 7, "notice-seen", 122.0, 99)


class Flaky(MemoryInstances):
    """EC2 that fails this many times first, and records the writes."""

    def __init__(self, failures: int) -> None:
        super().__init__({"i-1": "10.0.0.1"}, 8001)
        self.failures = failures
        self.written: list[NodeState | None] = []

    async def tag(self, instance_id: str, tags: NodeTags) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("RequestLimitExceeded")
        self.written.append(tags.state)
        await super().tag(instance_id, tags)


def publish(story: Coroutine[Any, Any, None], publisher: StatePublisher) -> None:
    async def run() -> None:
        running = asyncio.create_task(publisher.run())
        try:
            await story
        finally:
            running.cancel()

    asyncio.run(run())


def test_tags_collapse_to_the_newest_and_every_step_is_recorded() -> None:
    instances, records = Flaky(0), MemoryRecords()
    publisher = StatePublisher(RECORD, instances, records, lambda: 0.0)

    async def story() -> None:
        publisher.publish(NodeTags("synkti", NodeState.STARTING), NodeState.STARTING, STARTED)
        publisher.publish(NodeTags("synkti", NodeState.READY), NodeState.READY, READY)
        publisher.publish(DRAINING, NodeState.DRAINING, TimelineStep("notice-seen", "imds", 3.0))
        assert await publisher.flush(5.0)

    publish(story(), publisher)
    assert instances.written == [NodeState.DRAINING]
    assert decode_tags(instances.tags["i-1"]) == DRAINING
    assert [step.step for step in records.records["i-1"].story] == ["started", "ready", "notice-seen"]
    assert records.records["i-1"].state is NodeState.DRAINING


def test_other_cluster_keys_are_published_with_the_newest_tags_and_not_after_the_end() -> None:
    instances, records = Flaky(0), MemoryRecords()
    publisher = StatePublisher(RECORD, instances, records, lambda: 0.0)

    async def story() -> None:
        publisher.publish_keys(("11111111",))
        assert await publisher.flush(5.0)
        assert instances.written == [], "there are no tags yet"
        publisher.publish(NodeTags("synkti", NodeState.READY), NodeState.READY, READY)
        assert await publisher.flush(5.0)
        publisher.publish_keys(("22222222", "11111111"))
        assert await publisher.flush(5.0)
        tags = decode_tags(instances.tags["i-1"])
        assert tags == NodeTags("synkti", NodeState.READY, cluster_keys=("22222222", "11111111"))
        publisher.publish(None, NodeState.GONE, READY)
        publisher.publish_keys(("33333333",))
        assert await publisher.flush(5.0)

    publish(story(), publisher)
    assert instances.written == [NodeState.READY, NodeState.READY]


def test_a_throttled_write_is_retried_until_it_succeeds() -> None:
    instances, records = Flaky(2), MemoryRecords()
    publisher = StatePublisher(RECORD, instances, records, lambda: 0.0)

    async def story() -> None:
        publisher.publish(NodeTags("synkti", NodeState.READY), NodeState.READY, READY)
        assert not await publisher.flush(0.01), "it cannot have been written yet"
        assert await publisher.flush(5.0)

    publish(story(), publisher)
    assert instances.written == [NodeState.READY]
    assert records.records["i-1"].state is NodeState.READY


def test_an_older_incarnation_stops_writing_records() -> None:
    instances, records = Flaky(0), MemoryRecords()
    publisher = StatePublisher(RECORD, instances, records, lambda: 0.0)

    async def story() -> None:
        publisher.publish(None, NodeState.READY, READY)
        assert await publisher.flush(5.0)
        newer = NodeRecord("i-1", "z", "t", NodeState.STARTING, 8, 99)
        await records.begin(newer)
        publisher.publish(None, NodeState.GONE, TimelineStep("drained", "agent", 3.0))
        assert await publisher.flush(5.0)
        assert records.records["i-1"] == newer

    publish(story(), publisher)


def test_a_deleted_record_is_written_again_whole() -> None:
    instances, records = Flaky(0), MemoryRecords()
    publisher = StatePublisher(RECORD, instances, records, lambda: 0.0, lambda: 900.0)
    step = TimelineStep("interruption-notice", "eventbridge", 800.0)

    async def story() -> None:
        publisher.publish(None, NodeState.READY, READY)
        assert await publisher.flush(5.0)
        records.records.clear()
        publisher.publish(None, NodeState.DRAINING, TimelineStep("notice-seen", "imds", 900.0))
        assert await publisher.flush(5.0)
        assert [step.step for step in records.records["i-1"].story] == ["ready", "notice-seen"]
        assert records.records["i-1"].expires_at == 900 + RECORD_LIFE_S
        # The table deletes it again, and an event's Lambda is there first: its record is of no incarnation.
        records.records["i-1"] = NodeRecord("i-1", "z", "t", NodeState.DRAINING, 0, 1, {step.key: step})
        publisher.publish(None, NodeState.GONE, TimelineStep("drained", "agent", 990.0))
        assert await publisher.flush(5.0)

    publish(story(), publisher)
    record = records.records["i-1"]
    assert [step.step for step in record.story] == ["ready", "interruption-notice", "notice-seen", "drained"]
    assert (record.state, record.incarnation) == (NodeState.GONE, RECORD.incarnation)


def test_a_node_that_does_nothing_for_a_day_renews_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "RENEW_EVERY_S", 0.0)
    records = MemoryRecords()
    publisher = StatePublisher(RECORD, Flaky(0), records, lambda: 0.0, lambda: 5_000_000.0)

    async def story() -> None:
        publisher.publish(None, NodeState.READY, READY)
        async with asyncio.timeout(10):
            # Looking is all that happens.
            while not (record := records.records.get("i-1")) or record.expires_at < 5_000_000 + RECORD_LIFE_S:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert record.timeline == {READY.key: READY}

    publish(story(), publisher)


def test_without_a_table_tags_are_still_written() -> None:
    instances = Flaky(0)
    publisher = StatePublisher(RECORD, instances, None, lambda: 0.0)

    async def story() -> None:
        publisher.publish(NodeTags("synkti", NodeState.READY), NodeState.READY, READY)
        assert await publisher.flush(5.0)

    publish(story(), publisher)
    assert instances.written == [NodeState.READY]


def test_effects_are_carried_out_in_order_and_the_last_is_returned() -> None:
    done: list[str] = []

    async def perform(effect: Effect) -> None:
        done.append(type(effect).__name__)

    async def run() -> Retire:
        reactor = Reactor(Lifecycle(), perform)
        for event in (EngineReady(1), NoticeSeen(2, 122), Tick(3, 0)):
            reactor.post(event)
        return await reactor.run()

    assert asyncio.run(run()) == Retire(0, "drained")
    assert done == ["Publish", "Publish", "MoveStreams", "CloseClients"]


def test_a_bug_ends_the_process_with_the_recent_events(caplog: pytest.LogCaptureFixture) -> None:
    async def perform(effect: Effect) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        reactor = Reactor(Lifecycle(), perform)
        reactor.post(TermRequested(1, 91))
        with pytest.raises(ZeroDivisionError):
            await reactor.run()

    asyncio.run(run())
    assert "TermRequested" in caplog.text


def test_the_queue_of_events_is_bounded() -> None:
    async def perform(effect: Effect) -> None:
        """Nothing."""

    async def run() -> None:
        reactor = Reactor(Lifecycle(), perform)
        for _ in range(1_024):
            reactor.post(Tick(1, 0))
        with pytest.raises(asyncio.QueueFull):
            reactor.post(Tick(1, 0))

    asyncio.run(run())


class Absent(MemoryInstances):
    """EC2 that answers nothing until `back` is set."""

    def __init__(self) -> None:
        super().__init__({"i-1": "10.0.0.1"}, 8001)
        self.back = asyncio.Event()

    async def tag(self, instance_id: str, tags: NodeTags) -> None:
        await self.back.wait()
        await super().tag(instance_id, tags)


def test_an_unreachable_ec2_delays_no_record_and_gets_its_tags_later() -> None:
    async def run() -> None:
        instances, records = Absent(), MemoryRecords()
        publisher = StatePublisher(RECORD, instances, records, lambda: 0.0)
        running = asyncio.create_task(publisher.run())
        publisher.publish(DRAINING, NodeState.DRAINING, STARTED)
        publisher.put_drain(DRAIN)
        async with asyncio.timeout(10):
            while not records.drains or "i-1" not in records.records:  # noqa: ASYNC110 # writes are all that happens
                await asyncio.sleep(0)
            assert not await publisher.flush(0.01)
            instances.back.set()
            assert await publisher.flush(5.0)
        assert decode_tags(instances.tags["i-1"]) == DRAINING
        running.cancel()

    asyncio.run(run())


class LockedTable(MemoryRecords):
    """A table that refuses every write (AccessDenied) while `refuses` is set."""

    refuses = True
    attempts = 0

    async def begin(self, record: NodeRecord) -> None:
        self.attempts += 1
        if self.refuses:
            raise StoreUnavailable("AccessDeniedException")
        await super().begin(record)


def test_an_unreachable_table_delays_no_tags_and_loses_no_step() -> None:
    async def run() -> None:
        instances, records = Flaky(0), LockedTable()
        publisher = StatePublisher(RECORD, instances, records, lambda: 0.0)
        running = asyncio.create_task(publisher.run())
        publisher.publish(NodeTags("synkti", NodeState.STARTING), NodeState.STARTING, STARTED)
        publisher.publish(NodeTags("synkti", NodeState.READY), NodeState.READY, READY)
        async with asyncio.timeout(10):
            while not (instances.written and records.attempts):  # noqa: ASYNC110 # as above
                await asyncio.sleep(0)
            records.refuses = False
            assert await publisher.flush(5.0), "flush retries a pending write at once"
        assert [step.step for step in records.records["i-1"].story] == ["started", "ready"]
        running.cancel()

    asyncio.run(run())


class Buggy(Flaky):
    """EC2 whose adapter has a bug, in its first call."""

    async def tag(self, instance_id: str, tags: NodeTags) -> None:
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError
        await super().tag(instance_id, tags)


def test_what_a_bug_kept_from_being_written_is_written_by_the_restarted_loop() -> None:
    async def run() -> None:
        instances, records = Buggy(1), MemoryRecords()
        publisher = StatePublisher(RECORD, instances, records, lambda: 0.0)
        unexpected = Unexpected(Metrics(), asyncio.get_running_loop().time)
        running = asyncio.create_task(keep_running("publisher", publisher.run, unexpected, lambda: 0.0))
        publisher.publish(NodeTags("synkti", NodeState.READY), NodeState.READY, READY)
        publisher.put_drain(DRAIN)
        assert await publisher.flush(10.0)
        assert decode_tags(instances.tags["i-1"]) == NodeTags("synkti", NodeState.READY)
        assert [step.step for step in records.records["i-1"].story] == ["ready"]
        assert records.drains
        running.cancel()

    asyncio.run(run())
