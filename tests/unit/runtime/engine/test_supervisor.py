"""The supervisor's order: an engine answers, is examined, and only then is the node ready; its starts and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from node_agent.core.common.address import Address
from node_agent.core.failure.loss import LossReason
from node_agent.core.node.lifecycle import EngineGaveUp, EngineLost, EngineReady, Event
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.engine.lifetime_tracker import LifetimeTracker
from node_agent.runtime.engine.supervisor import EnginePlan, EngineSupervisor
from tests.borders.virtual_time import run_virtual


class Group:
    """An engine that ends when `ended` is set."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.status = 1
        self.stops = 0
        self.had_oom = False

    async def start(self) -> None:
        self.ended.clear()

    async def wait(self) -> int:
        await self.ended.wait()
        return self.status

    async def stop(self, grace_s: float) -> None:
        self.stops += 1

    def last_output(self) -> str:
        return ""

    def had_oom_kill(self) -> bool:
        return self.had_oom

    def is_suspended(self) -> bool:
        return False

    def note_shared_memory(self) -> None:
        """It has none."""


class Answering:
    """Answers every request with 200."""

    status = 200

    async def open(self, *_: object, **__: object) -> Any:
        return self

    async def read_all(self, max_bytes: int) -> bytes:
        return b"{}"

    def close(self) -> None:
        """There is nothing to close."""


async def never_stuck(first_answer_s: float) -> str:
    await asyncio.Event().wait()
    return ""


async def examine_nothing() -> None:
    """It supports nothing."""


def make_supervisor(
    group: Group,
    post: Callable[[Event], None],
    examine: Callable[[], Awaitable[None]] = examine_nothing,
    answering: Answering | None = None,
) -> tuple[EngineSupervisor, LifetimeTracker]:
    plan = EnginePlan(Address("127.0.0.1", 1), "m", start_s=5.0, restarts=3)
    http: Any = answering or Answering()
    lifetimes = LifetimeTracker(http, plan.address, Metrics())
    return (
        EngineSupervisor(plan, group, lifetimes, http, post, lambda: 0.0, lambda: 0.0, examine, never_stuck),
        lifetimes,
    )


def test_an_engine_that_answers_is_examined_before_its_node_is_ready() -> None:
    steps: list[str] = []

    async def story() -> None:
        group, over = Group(), asyncio.Event()

        async def examine() -> None:
            steps.append("examined")

        def post(event: Event) -> None:
            steps.append(type(event).__name__)
            group.ended.set()
            if isinstance(event, EngineLost):
                over.set()

        supervisor, _ = make_supervisor(group, post, examine)
        running = asyncio.ensure_future(supervisor.run())
        async with asyncio.timeout(10):
            await over.wait()
        running.cancel()
        assert group.stops <= 1

    asyncio.run(story())
    assert steps == ["examined", EngineReady.__name__, EngineLost.__name__]


@pytest.mark.parametrize(
    ("status", "had_oom", "reason"),
    [
        (134, False, LossReason.ENGINE_DIED),
        (-9, False, LossReason.ENGINE_KILLED),
        (-9, True, LossReason.ENGINE_DIED),
    ],
)
def test_each_start_and_each_end_of_an_engine_is_recorded(status: int, had_oom: bool, reason: LossReason) -> None:
    async def story() -> None:
        group, ready = Group(), asyncio.Event()
        group.status, group.had_oom = status, had_oom

        def post(event: Event) -> None:
            if isinstance(event, EngineReady):
                ready.set()

        supervisor, lifetimes = make_supervisor(group, post)
        running = asyncio.ensure_future(supervisor.run())
        await ready.wait()
        first = lifetimes.current
        assert (first.number, first.has_ended) == (1, False)
        ready.clear()
        group.ended.set()
        await ready.wait()  # the next one, after a pause
        assert first.death(1).reason is reason
        assert (lifetimes.current.number, lifetimes.current.has_ended) == (2, False)
        running.cancel()

    run_virtual(story, sockets=False)


def test_an_engine_that_the_agent_stops_was_ended_from_outside() -> None:
    async def story() -> None:
        group = Group()
        supervisor, lifetimes = make_supervisor(group, lambda event: None)
        lifetimes.started()
        await supervisor.stop(1.0)
        assert group.stops == 1
        assert lifetimes.current.death(1).reason is LossReason.ENGINE_KILLED

    run_virtual(story, sockets=False)


class Refusing(Answering):
    """Answers no health request."""

    status = 503


class Failing(Group):
    """Engines that end by themselves before they are healthy, with this output."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.starts = 0
        self._output = output

    async def start(self) -> None:
        self.starts += 1

    async def wait(self) -> int:
        return 1

    def last_output(self) -> str:
        return self._output if self.stops else "incomplete before the group has ended"


def given_up(group: Failing) -> EngineGaveUp:
    async def story() -> EngineGaveUp:
        posted: list[Event] = []

        async def examine() -> None:
            raise AssertionError("it never answers")

        supervisor, _ = make_supervisor(group, posted.append, examine, Refusing())
        await supervisor.run()
        (gave_up,) = posted
        assert isinstance(gave_up, EngineGaveUp)
        return gave_up

    return run_virtual(story, sockets=False)


def test_an_engine_whose_settings_cannot_work_is_given_up_at_once() -> None:
    group = Failing(
        "ValueError: the model needs 16.0 GiB of KV cache\nRuntimeError: Engine core initialization failed."
    )
    gave_up = given_up(group)
    assert (gave_up.is_permanent, gave_up.reason) == (True, "ValueError: the model needs 16.0 GiB of KV cache")
    assert group.starts == 1


def test_an_engine_that_may_start_later_is_restarted_and_its_last_words_are_the_reason() -> None:
    group = Failing("torch.OutOfMemoryError: CUDA out of memory")
    gave_up = given_up(group)
    assert not gave_up.is_permanent
    assert gave_up.reason.endswith("before it was healthy: OutOfMemoryError: CUDA out of memory")
    assert group.starts == 4  # restarts=3
