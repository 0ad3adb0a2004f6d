"""The supervisor's order: an engine answers, is examined, and only then is the node ready."""

from __future__ import annotations

import asyncio
from typing import Any

from node_agent.core.common.address import Address
from node_agent.core.node.lifecycle import EngineGaveUp, EngineLost, EngineReady, Event
from node_agent.runtime.engine.supervisor import EnginePlan, EngineSupervisor


class Group:
    """An engine that ends when `ended` is set."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.stops = 0

    async def start(self) -> None:
        self.ended.clear()

    async def wait(self) -> int:
        await self.ended.wait()
        return 1

    async def stop(self, grace_s: float) -> None:
        self.stops += 1

    def last_output(self) -> str:
        return ""

    def had_oom_kill(self) -> bool:
        return False

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

        plan = EnginePlan(Address("127.0.0.1", 1), "m", start_s=5.0, restarts=3)
        http: Any = Answering()
        supervisor = EngineSupervisor(plan, group, http, post, lambda: 0.0, lambda: 0.0, examine, never_stuck)
        running = asyncio.ensure_future(supervisor.run())
        async with asyncio.timeout(10):
            await over.wait()
        running.cancel()
        assert group.stops <= 1

    asyncio.run(story())
    assert steps == ["examined", EngineReady.__name__, EngineLost.__name__]


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
        plan = EnginePlan(Address("127.0.0.1", 1), "m", start_s=5.0, restarts=2)
        http: Any = Refusing()

        async def examine() -> None:
            raise AssertionError("it never answers")

        supervisor = EngineSupervisor(plan, group, http, posted.append, lambda: 0.0, lambda: 0.0, examine, never_stuck)
        async with asyncio.timeout(20):
            await supervisor.run()
        (gave_up,) = posted
        assert isinstance(gave_up, EngineGaveUp)
        return gave_up

    return asyncio.run(story())


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
    assert group.starts == 3
