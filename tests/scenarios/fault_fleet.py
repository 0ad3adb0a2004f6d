"""A fleet whose fake engines get their faults beforehand, and one event loop for all its scenarios."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import uvloop

from node_agent.core.continuation import timeouts
from tests.scenarios.local_fleet import LocalFleet, LocalNode, local_fleet

SILENCE_S = 1.0
Fault = dict[str, Any]
Heard = TypeVar("Heard")


@dataclass
class FaultFleet(ABC, Generic[Heard]):
    """The fleet and its loop. orders: the engines that a request meets, one after another, as they are lost."""

    runner: asyncio.Runner
    fleet: LocalFleet
    orders: dict[str, list[LocalNode]] = field(default_factory=dict)

    @abstractmethod
    async def ask(self, entry: LocalNode, form: str) -> Heard:
        """What a client hears that asks in this form."""

    def play(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.runner.run(story())

    async def tell(self, node: LocalNode, faults: Sequence[Fault]) -> None:
        response = await self.fleet.http.post(f"http://{node.host}:8002/standin/faults", json=list(faults))
        assert response.status_code == 200, response.text

    async def happened(self, node: LocalNode) -> list[Fault]:
        told = (await self.fleet.http.get(f"http://{node.host}:8002/standin/faults")).json()
        happened: list[Fault] = told["happened"]
        return happened

    async def order(self, form: str) -> list[LocalNode]:
        """Routing is a function of the prompt, so the order in which one stream loses all of them is everyone's."""
        if form not in self.orders:
            for node in self.fleet.nodes:
                await self.tell(node, [{"kind": "done", "after_tokens": 5}])
            await self.ask(self.fleet.nodes[0], form)
            lost_at = {node.instance_id: (await self.happened(node))[0]["at"] for node in self.fleet.nodes}
            self.orders[form] = sorted(self.fleet.nodes, key=lambda node: float(lost_at[node.instance_id]))
        return self.orders[form]

    async def lose(self, form: str, faults: Sequence[Fault], entry: int = -1) -> Heard:
        """The stream loses one engine for each of `faults`; its entry is the node that is `entry` in the order."""
        order = await self.order(form)
        self.fleet.close_breakers()
        for node, planned in zip(order, [*([fault] for fault in faults), *[[]] * len(order)], strict=False):
            await self.tell(node, planned)
        heard = await self.ask(order[entry], form)
        for node, fault in zip(order, faults, strict=False):
            happened = await self.happened(node)
            assert [each["kind"] for each in happened] == [fault["kind"]], f"on {node.instance_id}: {heard}"
        return heard


@contextlib.contextmanager
def fault_fleet(folder: Path, *engine_options: str) -> Iterator[tuple[asyncio.Runner, LocalFleet]]:
    """Run three nodes whose engines accept faults, with short timeouts. engine_options: further ones of the engines."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(timeouts, "FIRST_TOKEN_S", SILENCE_S)
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        making = local_fleet(
            folder,
            seconds_per_token=0.002,
            engine_options=["--faults", *engine_options],
            SYNKTI_MIN_SILENCE_S=str(SILENCE_S),
        )
        fleet = runner.run(making.__aenter__())
        stack.callback(lambda: runner.run(making.__aexit__(None, None, None)))
        yield runner, fleet
