"""The supervisor's order: an engine answers, is examined, and only then is the node ready."""

from __future__ import annotations

import asyncio
from typing import Any

from node_agent.core.common.address import Address
from node_agent.core.node.lifecycle import EngineLost, EngineReady, Event
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
