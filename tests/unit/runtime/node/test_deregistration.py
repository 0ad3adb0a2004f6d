"""The end of a node's registration: what is written, in which order, and that no part of AWS delays the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from node_agent.contract.errors import StoreUnavailable
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import NodeRecord, TimelineStep
from node_agent.contract.tags import NodeTags
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.common.supervised_task import Unexpected
from node_agent.runtime.node.deregistration import COMPLETE_S, FLUSH_S, UNTAG_S, deregister
from node_agent.runtime.node.state_publisher import StatePublisher
from node_agent.testing.fakes import MemoryInstances, MemoryRecords, MemoryScalingGroup
from tests.borders.virtual_time import run_virtual

RECORD = NodeRecord("i-1", "z", "t", NodeState.STARTING, 7, 99)
GONE = TimelineStep("drained", "agent", 1.0)


class Instances(MemoryInstances):
    """EC2 with the tags of one instance. on_untag: what a request to untag does first."""

    def __init__(self, on_untag: str = "works") -> None:
        super().__init__({"i-1": "10.0.0.1"}, 8001)
        self.tags["i-1"] = NodeTags("synkti", NodeState.DRAINING).encode()
        self._on_untag = on_untag

    async def untag(self, instance_id: str) -> None:
        if self._on_untag == "hangs":
            await asyncio.Event().wait()
        if self._on_untag == "fails":
            raise StoreUnavailable("RequestLimitExceeded")
        if self._on_untag == "breaks":
            raise ValueError("<html>502 Bad Gateway</html>")
        await super().untag(instance_id)

    @property
    def is_registered(self) -> bool:
        return "SynktiState" in self.tags["i-1"]


class Group(MemoryScalingGroup):
    """A group that waits for one instance. hangs: whether it never responds."""

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__({"i-1"})
        self._hangs = hangs

    async def complete_termination(self, instance_id: str) -> bool:
        if self._hangs:
            await asyncio.Event().wait()
        return await super().complete_termination(instance_id)


class StuckRecords(MemoryRecords):
    """A table that never responds."""

    async def begin(self, record: NodeRecord) -> None:
        await asyncio.Event().wait()


def end(
    instances: Instances,
    group: Group | None,
    records: MemoryRecords | None = None,
    on_untagged: Callable[[], None] = lambda: None,
    metrics: Metrics | None = None,
) -> float:
    """Deregister a node whose last step is queued; return how long it took, in virtual seconds."""
    durations: list[float] = []

    async def story() -> None:
        clock = asyncio.get_running_loop().time
        publisher = StatePublisher(RECORD, instances, records or MemoryRecords(), lambda: 0.0, clock)
        writing = asyncio.create_task(publisher.run())
        publisher.publish(None, NodeState.GONE, GONE)
        began = clock()
        await deregister("i-1", publisher, instances, group, Unexpected(metrics or Metrics(), clock), on_untagged)
        durations.append(clock() - began)
        writing.cancel()
        await asyncio.wait({writing})

    run_virtual(story)
    return durations[0]


def test_the_last_step_is_written_the_tags_are_removed_and_the_group_waits_no_longer() -> None:
    instances, group, records, untagged = Instances(), Group(), MemoryRecords(), list[bool]()
    assert instances.is_registered
    took_s = end(instances, group, records, lambda: untagged.append(not instances.is_registered))
    assert took_s < 1.0
    assert untagged == [True], "it is called once, after the tags are removed"
    assert not group.waits_for
    assert records.records["i-1"].state is NodeState.GONE


def test_a_node_that_no_group_waits_for_is_untagged_all_the_same() -> None:
    instances = Instances()
    end(instances, None)
    assert not instances.is_registered


@pytest.mark.parametrize("on_untag", ["hangs", "fails", "breaks"])
def test_the_group_is_informed_although_ec2_cannot_untag(on_untag: str) -> None:
    instances, group, untagged = Instances(on_untag), Group(), list[bool]()
    assert end(instances, group, on_untagged=lambda: untagged.append(True)) <= UNTAG_S + 0.1
    assert instances.is_registered
    assert not untagged
    assert not group.waits_for


def test_a_bug_in_one_part_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    end(Instances("breaks"), Group(), metrics=metrics)
    assert b'synkti_unexpected_errors_total{where="untag"} 1.0' in metrics.exposition()
    assert "502 Bad Gateway" in caplog.text


def test_a_bug_in_the_last_writes_keeps_neither_tags_nor_group() -> None:
    class Broken(StatePublisher):
        async def flush(self, within_s: float) -> bool:
            raise ValueError("a bug")

    instances, group, metrics = Instances(), Group(), Metrics()
    publisher = Broken(RECORD, instances, MemoryRecords(), lambda: 0.0, lambda: 0.0)
    asyncio.run(deregister("i-1", publisher, instances, group, Unexpected(metrics, lambda: 0.0), lambda: None))
    assert not instances.is_registered
    assert not group.waits_for
    assert b'synkti_unexpected_errors_total{where="flush"} 1.0' in metrics.exposition()


def test_an_aws_that_never_responds_costs_only_the_sum_of_the_timeouts(caplog: pytest.LogCaptureFixture) -> None:
    took_s = end(Instances("hangs"), Group(hangs=True), StuckRecords())
    assert took_s == pytest.approx(FLUSH_S + UNTAG_S + COMPLETE_S, abs=0.2)
    assert "could not be written in time" in caplog.text
