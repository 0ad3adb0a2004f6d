"""Each notice in IMDS becomes one event; an IMDS that does not answer is polled again."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.errors import MetadataUnavailable
from node_agent.core.node.lifecycle import Event, NoticeSeen, RebalanceSeen, TermRequested
from node_agent.ports import Identity
from node_agent.runtime.node import interruption_watcher as watching
from node_agent.runtime.node.interruption_watcher import watch_metadata
from node_agent.testing.fakes import MemoryMetadata
from tests.borders.virtual_time import run_virtual

NOW, GRACE_S = 1000.0, 90.0


class Metadata(MemoryMetadata):
    """looks: number of polls; silent: whether it does not answer."""

    looks = 0
    silent = False

    async def interruption(self) -> InterruptionNotice | None:
        self.looks += 1
        if self.silent:
            raise MetadataUnavailable("IMDS does not answer")
        return await super().interruption()


def watched(monkeypatch: pytest.MonkeyPatch, *steps: dict[str, object]) -> list[Event]:
    """Return the events of a watch during which IMDS takes each step in turn, each for two polls."""
    monkeypatch.setattr(watching, "EVERY_S", 0.0)
    events: list[Event] = []

    async def story() -> None:
        metadata = Metadata(Identity("i-1", "z", "r", "t", "10.0.0.1"))
        task = asyncio.create_task(watch_metadata(metadata, events.append, lambda: NOW, GRACE_S))
        for step in steps:
            for name, value in step.items():
                setattr(metadata, name, value)
            seen = metadata.looks
            while metadata.looks < seen + 2:  # noqa: ASYNC110 # looking is all that happens
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(story(), 10))
    return events


def test_without_a_notice_there_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, {}) == []


def test_each_notice_is_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    notice = InterruptionNotice(NOW + 120, "terminate")
    events = watched(monkeypatch, {"rebalance_at": NOW}, {"is_terminating": True}, {"notice": notice}, {})
    assert events == [RebalanceSeen(NOW), TermRequested(NOW, NOW + GRACE_S), NoticeSeen(NOW, NOW + 120)]


def test_an_imds_that_did_not_answer_is_polled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, {"silent": True}, {"silent": False, "rebalance_at": NOW}) == [RebalanceSeen(NOW)]


class Broken(Metadata):
    """Two of its paths fail, or never answer."""

    hangs = False

    async def rebalance(self) -> float | None:
        if self.hangs:
            await asyncio.Event().wait()
        raise MetadataUnavailable("IMDS answered 500 for events/recommendations/rebalance")

    async def interruption(self) -> InterruptionNotice | None:
        await self.rebalance()
        return None


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "never answers"])
def test_a_path_that_fails_hides_no_other(hangs: bool) -> None:
    events: list[Event] = []

    async def story() -> None:
        metadata = Broken(Identity("i-1", "z", "r", "t", "10.0.0.1"))
        metadata.hangs, metadata.is_terminating = hangs, True
        watch = asyncio.create_task(watch_metadata(metadata, events.append, lambda: NOW, GRACE_S))
        await asyncio.sleep(30.0)
        assert not watch.done()
        watch.cancel()
        await asyncio.wait({watch})

    run_virtual(story)
    assert events == [TermRequested(NOW, NOW + GRACE_S)]
