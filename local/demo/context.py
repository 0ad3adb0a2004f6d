"""Holds what an interruption of the demo needs: the embedded AWS, the instances, the screen, the fleet's state."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.aws import EmbeddedAws
from local.certificate import Output, StreamOutcome
from local.demo.gateway import GatewayProcess
from local.demo.request import DemoRequest, Reference
from local.demo.screen import Screen
from local.deploy import Deployed
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance
from local.errors import LocalRunError
from local.process_cleanup import tail

_POLL_S = 0.1


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

    folder: Path
    """Of the run's processes, with which they end."""

    logs: Path
    references: dict[DemoRequest, Output] = field(default_factory=dict)
    """The uninterrupted outputs that are known by now."""

    gateway: GatewayProcess | None = None
    plain: tuple[int, int, str | None] | None = None
    """The tokens that plain vLLM delivered of how many, and the client's error."""

    outcomes: list[StreamOutcome] = field(default_factory=list)
    has_first_token: bool = False
    passed: bool | None = None
    """Whether the run passed; None until its report is written."""

    known_states: dict[str, str] = field(default_factory=dict)
    """By instance: the state that was printed last."""

    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=5))

    def stop_gateway(self) -> None:
        """End the gateway, if it runs."""
        if self.gateway is not None:
            self.gateway.stop()

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that the longest running instance lists; empty while none answers."""
        for instance in self.emulator.instances:
            if found := await self._listed_by(instance):
                return found
        return []

    async def _listed_by(self, instance: EmulatedInstance) -> list[dict[str, Any]]:
        """Return the nodes that an instance lists; empty while it does not answer."""
        try:
            answer = await self.http.get(f"{instance.url}/v1/synkti/nodes")
        except httpx.HTTPError:
            return []
        found: list[dict[str, Any]] = answer.json()["nodes"]
        return found

    async def _all_list_all(self) -> bool:
        """Return whether each instance lists the whole fleet as ready: else it would use its own engine only."""
        listed = [await self._listed_by(instance) for instance in list(self.emulator.instances)]
        return all(
            sum(node["state"] == "ready" and not node["suspect"] for node in nodes) >= self.fleet_size
            for nodes in listed
        )

    async def wait_until_ready(self) -> None:
        """Wait until all nodes serve and list each other; log every change of state. Raises LocalRunError."""
        logged: dict[str, str] = {}
        give_up_at = time.monotonic() + self.ready_timeout_s

        def awaited() -> str:
            ready = sum(state == "ready" for state in logged.values())
            return f"{ready} of {self.fleet_size} nodes ready; their engines start"

        async with self.screen.waiting(awaited):
            while list(logged.values()).count("ready") < self.fleet_size or not await self._all_list_all():
                if time.monotonic() > give_up_at:
                    raise LocalRunError(self._not_ready())
                await asyncio.sleep(_POLL_S)
                self._log_states(logged, await self.nodes())

    def _log_states(self, logged: dict[str, str], nodes: list[dict[str, Any]]) -> None:
        living = {instance.instance_id for instance in self.emulator.instances}
        states = {node["instance_id"]: node["state"] for node in nodes if node["instance_id"] in living}
        for instance_id, state in states.items():
            if logged.get(instance_id, self.known_states.get(instance_id)) != state:
                self.screen.log(f"{instance_id} {state}", style="green" if state == "ready" else "")
        logged.clear()
        logged.update(states)
        self.known_states |= states

    def _not_ready(self) -> str:
        logs = "\n".join(f"{each.log}:\n{tail(each.log)}" for each in self.emulator.instances)
        return f"the nodes were not ready within {self.ready_timeout_s:.0f} s; their logs:\n{logs}"
