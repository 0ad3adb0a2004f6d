"""What an act of the story needs: the embedded AWS, the machines, a screen, and the fleet as it sees itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from local.aws import EmbeddedAws
from local.certificate import Output, StreamOutcome
from local.demo.screen import Screen
from local.deploy import Deployed
from local.ec2_emulator import Ec2Emulator
from local.errors import LocalRunError
from local.listener import DemoRequest
from local.process_cleanup import tail

Reference = Callable[[DemoRequest], Output | None]
"""The right answer where it is known without asking."""


@dataclass
class DemoContext:
    """Everything the acts need.

    size: of the fleet; ready_within_s: how long nodes may take until they serve; kept: whether the promise was, once
    that is known.
    """

    aws: EmbeddedAws
    deployed: Deployed
    emulator: Ec2Emulator
    screen: Screen
    model: str
    reference: Reference
    fleet_size: int
    ready_timeout_s: float
    outcomes: list[StreamOutcome] = field(default_factory=list)
    first_token_s: float | None = None
    passed: bool | None = None
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=5))

    async def nodes(self) -> list[dict[str, Any]]:
        """The fleet as the longest running machine sees it; empty while none answers."""
        for machine in self.emulator.instances:
            try:
                answer = await self.http.get(f"{machine.url}/v1/synkti/nodes")
            except httpx.HTTPError:
                continue
            found: list[dict[str, Any]] = answer.json()["nodes"]
            return found
        return []

    async def wait_until_ready(self) -> None:
        """Until all nodes serve and know each other; tells every change. Raises LocalRunError."""
        told: dict[str, str] = {}
        give_up_at = time.monotonic() + self.ready_timeout_s
        while True:
            nodes = await self.nodes()
            living = {machine.instance_id for machine in self.emulator.instances}
            states = {node["instance_id"]: node["state"] for node in nodes if node["instance_id"] in living}
            for instance_id, state in states.items():
                if told.get(instance_id) != state:
                    self.screen.log(f"{instance_id} {state}", style="green" if state == "ready" else "")
            told = states
            if sum(state == "ready" for state in states.values()) >= self.fleet_size:
                return
            if time.monotonic() > give_up_at:
                logs = "\n".join(f"{m.log}:\n{tail(m.log)}" for m in self.emulator.instances)
                raise LocalRunError(
                    f"the nodes were not ready within {self.ready_timeout_s:.0f} s; their logs:\n{logs}"
                )
            await asyncio.sleep(0.1)
