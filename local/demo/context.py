"""Holds what an interruption of the demo needs: the embedded AWS, the instances, the screen, the fleet's state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from local.aws import EmbeddedAws
from local.certificate import Output, StreamOutcome
from local.demo.client import DemoRequest
from local.demo.screen import Screen
from local.deploy import Deployed
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance
from local.errors import LocalRunError
from local.process_cleanup import tail

Reference = Callable[[DemoRequest], Output | None]
"""Returns the expected output if it is known without a request."""


@dataclass
class DemoContext:
    """Everything that an interruption needs."""

    aws: EmbeddedAws
    deployed: Deployed
    emulator: Ec2Emulator[EmulatedInstance]
    screen: Screen
    model: str
    reference: Reference
    fleet_size: int
    ready_timeout_s: float
    """How long nodes may take until they serve."""

    outcomes: list[StreamOutcome] = field(default_factory=list)
    first_token_s: float | None = None
    passed: bool | None = None
    """Whether the run passed; None until its report is written."""

    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=5))

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that the longest running instance lists; empty while none answers."""
        for instance in self.emulator.instances:
            try:
                answer = await self.http.get(f"{instance.url}/v1/synkti/nodes")
            except httpx.HTTPError:
                continue
            found: list[dict[str, Any]] = answer.json()["nodes"]
            return found
        return []

    async def wait_until_ready(self) -> None:
        """Wait until all nodes serve and list each other; log every change of state. Raises LocalRunError."""
        logged: dict[str, str] = {}
        give_up_at = time.monotonic() + self.ready_timeout_s
        while True:
            nodes = await self.nodes()
            living = {instance.instance_id for instance in self.emulator.instances}
            states = {node["instance_id"]: node["state"] for node in nodes if node["instance_id"] in living}
            for instance_id, state in states.items():
                if logged.get(instance_id) != state:
                    self.screen.log(f"{instance_id} {state}", style="green" if state == "ready" else "")
            logged = states
            if sum(state == "ready" for state in states.values()) >= self.fleet_size:
                return
            if time.monotonic() > give_up_at:
                logs = "\n".join(f"{m.log}:\n{tail(m.log)}" for m in self.emulator.instances)
                raise LocalRunError(
                    f"the nodes were not ready within {self.ready_timeout_s:.0f} s; their logs:\n{logs}"
                )
            await asyncio.sleep(0.1)
