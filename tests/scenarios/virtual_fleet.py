"""Real agents with real connections on virtual time: what they do does not depend on the machine's speed.

Engines are fake engines in the same loop; all other dependencies are fakes in memory. A buffered answer takes the
virtual time of its tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from local.fake_engine.config import Config
from node_agent.adapters.http import HttpClient
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.agent import Agent
from node_agent.composition import engine as composed_engine
from node_agent.core.common.address import Address
from node_agent.dependencies import Dependencies
from node_agent.ports import Identity
from node_agent.settings import Settings, from_environ
from node_agent.testing.fakes import (
    MemoryBlockStore,
    MemoryCheckpoints,
    MemoryInstances,
    MemoryMetadata,
    MemoryRecords,
    MemoryScalingGroup,
    MemoryStreamRecords,
)
from tests.borders.asgi import LocalEngine
from tests.scenarios.local_fleet import MODEL

READY_WITHIN_S = 60.0
_runs = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """A response. body: parsed JSON."""

    status: int
    body: Any


@dataclass
class VirtualNode:
    """One agent. host: its loopback address."""

    host: str
    agent: Agent


@dataclass
class VirtualFleet:
    """The agents, and a client of theirs."""

    nodes: list[VirtualNode] = field(default_factory=list)
    client: HttpClient = field(default_factory=HttpClient)

    async def request(
        self, node: VirtualNode, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request to a node's client API."""
        data = b"" if body is None else json.dumps(body).encode()
        kind = {"content-type": "application/json"} if body is not None else {}
        response = await self.client.open(
            Address(node.host, 8000), method, path, headers={**kind, **(headers or {})}, body=data, read_timeout_s=60.0
        )
        try:
            return Answer(response.status, json.loads(await response.read_all(1024 * 1024)))
        finally:
            response.close()

    async def sees_all(self, node: VirtualNode) -> bool:
        """Return whether a node lists all nodes as serving."""
        with contextlib.suppress(OSError):
            nodes = (await self.request(node, "GET", "/v1/synkti/nodes")).body["nodes"]
            return sum(1 for other in nodes if other["model"]) == len(self.nodes)
        return False


def _settings(host: str, folder: Path) -> Settings:
    return from_environ({
        "SYNKTI_MODEL_NAME": MODEL, "SYNKTI_MODEL_DIR": "unused", "SYNKTI_FRONT_HOST": host, "SYNKTI_PEER_HOST": host,
        "SYNKTI_ADMIN_HOST": host, "SYNKTI_ENGINE_HOST": host, "SYNKTI_ADVERTISE_ADDRESS": f"{host}:8001",
        "SYNKTI_STATE_DIR": str(folder), "SYNKTI_BOOT_SPREAD_S": "0.1",
    })  # fmt: skip


@contextlib.asynccontextmanager
async def virtual_fleet(folder: Path, size: int, engine: Config) -> AsyncIterator[VirtualFleet]:
    """Run agents in a virtual loop, each ready and listed by all others; all have ended when the block is left."""
    clock, run = asyncio.get_running_loop().time, next(_runs)
    hosts = [f"127.{170 + os.getpid() % 70}.{200 + run}.{n + 1}" for n in range(size)]
    addresses = {f"i-{n:08x}": host for n, host in enumerate(hosts)}
    fleet, instances, to_engines = VirtualFleet(), MemoryInstances(addresses, 8001), list[HttpClient]()
    engines = [LocalEngine(host, 8002, MODEL, engine) for host in hosts]
    lives = list[asyncio.Task[int]]()
    with mock.patch.object(composed_engine, "EngineProcess", side_effect=engines):
        for number, (instance_id, host) in enumerate(addresses.items()):
            identity = Identity(instance_id, "us-east-1a", "us-east-1", "g5.xlarge", host)
            outside = Dependencies(
                identity, MemoryMetadata(identity), instances, MemoryRecords(), b"cluster key",
                MemoryScalingGroup(set(addresses)), MemoryCheckpoints(), MemoryBlockStore(), MemoryStreamRecords(),
            )  # fmt: skip
            to_engines.append(HttpClient())
            agent = Agent(
                _settings(host, folder / instance_id), outside, to_engines[-1], signals=False,
                clock=SteadyClock(lambda: 1.7e9 + clock(), clock), monotonic=clock, random=Random(number),
            )  # fmt: skip
            fleet.nodes.append(VirtualNode(host, agent))
            lives.append(asyncio.create_task(agent.run()))
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                for node in fleet.nodes:
                    while not await fleet.sees_all(node):  # noqa: ASYNC110 # on virtual time
                        await asyncio.sleep(0.5)
            yield fleet
        finally:
            for node in fleet.nodes:
                node.agent.request_drain()
            _, late = await asyncio.wait(lives, timeout=200.0)
            for life in lives:
                life.cancel()
            for client in (*to_engines, fleet.client):
                await client.close()
            assert not late, "a node did not end"
