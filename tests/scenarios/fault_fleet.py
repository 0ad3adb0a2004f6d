"""A fleet whose fake engines receive their faults in advance, and one event loop for all scenarios of a module."""

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
Result = TypeVar("Result")


@dataclass
class FaultFleet(ABC, Generic[Result]):
    """The fleet and its loop. engine_orders: results of `engine_order`, by request form."""

    runner: asyncio.Runner
    fleet: LocalFleet
    engine_orders: dict[str, list[LocalNode]] = field(default_factory=dict)

    @abstractmethod
    async def request(self, entry: LocalNode, form: str) -> Result:
        """Send a request of this form to the entry node, and return what the client received."""

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.runner.run(scenario())

    async def set_faults(self, node: LocalNode, faults: Sequence[Fault]) -> None:
        """Replace the faults that the node's engine will inject."""
        response = await self.fleet.http.post(f"http://{node.host}:8002/standin/faults", json=list(faults))
        assert response.status_code == 200, response.text

    async def injected(self, node: LocalNode) -> list[Fault]:
        """Return the faults that the node's engine has injected since they were set, oldest first."""
        reply = (await self.fleet.http.get(f"http://{node.host}:8002/standin/faults")).json()
        injected: list[Fault] = reply["happened"]
        return injected

    async def engine_order(self, form: str) -> list[LocalNode]:
        """Return the nodes in the order in which a request of this form reaches their engines, from any entry."""
        if form not in self.engine_orders:
            for node in self.fleet.nodes:
                await self.set_faults(node, [{"kind": "done", "after_tokens": 5}])
            await self.request(self.fleet.nodes[0], form)
            lost_at = {node.instance_id: (await self.injected(node))[0]["at"] for node in self.fleet.nodes}
            self.engine_orders[form] = sorted(self.fleet.nodes, key=lambda node: float(lost_at[node.instance_id]))
        return self.engine_orders[form]

    async def request_with_faults(self, form: str, faults: Sequence[Fault], entry: int = -1) -> Result:
        """Send a request that loses one engine for each fault, and assert that all faults were injected.

        entry: index of the entry node in the engine order; -1 is the node whose engine is reached last.
        """
        nodes = await self.engine_order(form)
        self.fleet.close_breakers()
        for node, planned in zip(nodes, [*([fault] for fault in faults), *[[]] * len(nodes)], strict=False):
            await self.set_faults(node, planned)
        result = await self.request(nodes[entry], form)
        for node, fault in zip(nodes, faults, strict=False):
            injected = await self.injected(node)
            assert [each["kind"] for each in injected] == [fault["kind"]], f"on {node.instance_id}: {result}"
        return result


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
