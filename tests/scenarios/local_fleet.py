"""Runs a fleet in one event loop: real agents with real servers and fake engines; only AWS is a fake in memory.

Every wait has a deadline, and nothing sleeps to let something happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from local.emulated_instance import EngineCommand
from node_agent.adapters.http import HttpClient
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.agent import Agent
from node_agent.contract.aws_events import InterruptionNotice
from node_agent.contract.names import ENGINE_PORT
from node_agent.dependencies import Dependencies
from node_agent.ports import Identity
from node_agent.settings import from_environ
from node_agent.testing.fakes import (
    MemoryBlockStore,
    MemoryCheckpoints,
    MemoryInstances,
    MemoryMetadata,
    MemoryRecords,
    MemoryScalingGroup,
    MemoryStreamRecords,
)

MODEL = "m"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
READY_WITHIN_S = 20.0
REAL_READY_WITHIN_S = 400.0
"""Of several real vLLMs, which start at once on a machine that has other things to do."""

_runs = itertools.count(1)


async def eventually(what: str, check: Callable[[], Awaitable[bool]], within_s: float = READY_WITHIN_S) -> None:
    """Poll a condition until it holds. Raises AssertionError after `within_s`."""
    give_up_at = time.monotonic() + within_s
    while not await check():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s} s: {what}")
        await asyncio.sleep(0.02)


@dataclass
class LocalNode:
    """One node of the fleet. host: its loopback address."""

    instance_id: str
    host: str
    agent: Agent
    metadata: MemoryMetadata
    state_dir: Path
    life: asyncio.Task[int] | None = None
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:8000"

    @property
    def admin_url(self) -> str:
        return f"http://{self.host}:8003"

    def notice(self, lead_s: float) -> None:
        self.metadata.notice = InterruptionNotice(time.time() + lead_s, "terminate")

    async def crash(self) -> None:
        """End the agent abruptly, with all its replicas and connections."""
        for door in self.agent.parts.servers:
            door.abort()
        self.agent.parts.replication.server.close()
        self.agent.parts.replication.manager.close()
        if self.life is not None:
            self.life.cancel()
            await asyncio.wait({self.life})

    def kill_engine(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.killpg(int((self.state_dir / "engine.group").read_text().split()[1]), number)


@dataclass
class LocalFleet:
    nodes: list[LocalNode] = field(default_factory=list)
    instances: MemoryInstances = field(default_factory=lambda: MemoryInstances({}, 8001))
    records: MemoryRecords = field(default_factory=MemoryRecords)
    checkpoints: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)
    blocks: MemoryBlockStore = field(default_factory=MemoryBlockStore)
    stream_records: MemoryStreamRecords = field(default_factory=MemoryStreamRecords)
    group: MemoryScalingGroup = field(default_factory=lambda: MemoryScalingGroup(set()))
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=30))

    def by_id(self, instance_id: str) -> LocalNode:
        return next(node for node in self.nodes if node.instance_id == instance_id)

    def others(self, node: LocalNode) -> list[LocalNode]:
        return [other for other in self.nodes if other is not node]

    def close_breakers(self) -> None:
        """Close all circuit breakers, before a scenario of losses begins."""
        for node, other in itertools.product(self.nodes, self.nodes):
            node.agent.parts.node.on_request_succeeded(other.instance_id)

    async def ready(self, node: LocalNode) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await self.http.get(f"{node.admin_url}/readyz")).status_code == 200
        return False

    async def sees(self, node: LocalNode, count: int) -> bool:
        """Return True if the node lists `count` serving nodes, itself included."""
        nodes = (await self.http.get(f"{node.url}/v1/synkti/nodes")).json()["nodes"]
        return sum(1 for other in nodes if other["model"]) == count


def fake_engine_command(host: str, model: str, seconds_per_token: float, options: Sequence[str] = ()) -> list[str]:
    command = [sys.executable, "-m", "local.fake_engine", "--host", host, "--port", "8002", "--model-name", model]
    return [*command, "--seconds-per-token", str(seconds_per_token), *options]


def _environ(host: str, folder: Path, command: Sequence[str], extra: dict[str, str], model: str) -> dict[str, str]:
    return {
        "SYNKTI_MODEL_NAME": model,
        "SYNKTI_MODEL_DIR": "unused",
        "SYNKTI_FRONT_HOST": host,
        "SYNKTI_PEER_HOST": host,
        "SYNKTI_ADMIN_HOST": host,
        "SYNKTI_ENGINE_HOST": host,
        "SYNKTI_ENGINE_COMMAND": json.dumps(command),
        "SYNKTI_ADVERTISE_ADDRESS": f"{host}:8001",
        "SYNKTI_STATE_DIR": str(folder),
        "SYNKTI_BOOT_SPREAD_S": "0.1",
        **extra,
    }


@contextlib.asynccontextmanager
async def local_fleet(
    folder: Path,
    size: int = 3,
    seconds_per_token: float = 0.01,
    engine_options: Sequence[str] = (),
    models: Sequence[str] = (MODEL,),
    checkpoints: MemoryCheckpoints | None = None,
    blocks: MemoryBlockStore | None = None,
    stream_records: MemoryStreamRecords | None = None,
    clocks: Mapping[int, SteadyClock] | None = None,
    through: Callable[[Dependencies], Dependencies] | None = None,
    engine: EngineCommand | None = None,
    verify: ssl.SSLContext | None = None,
    server_name: str | None = None,
    first: int = 0,
    **extra: str,
) -> AsyncIterator[LocalFleet]:
    """Run `size` nodes, each ready and listed by all others.

    engine_options: of the fake engines; models: what the nodes serve, in rotation; checkpoints, blocks,
    stream_records: another fleet's; engine: the command of a real engine; clocks: of single nodes, by their numbers;
    through: wraps the fake AWS; verify, server_name: how the test's client checks nodes with TLS; first: the first
    instance's number; extra: settings, as SYNKTI_ variables.
    """
    within_s = READY_WITHIN_S if engine is None else REAL_READY_WITHIN_S
    async with unready_fleet(
        folder,
        size,
        seconds_per_token,
        engine_options,
        models,
        checkpoints,
        blocks,
        stream_records,
        clocks,
        through,
        engine,
        verify,
        server_name,
        first,
        **extra,
    ) as fleet:
        for node in fleet.nodes:
            await eventually(f"{node.instance_id} is ready", partial(fleet.ready, node), within_s)
            await eventually(f"{node.instance_id} sees all", partial(fleet.sees, node, size))
        yield fleet


@contextlib.asynccontextmanager
async def unready_fleet(
    folder: Path,
    size: int = 3,
    seconds_per_token: float = 0.01,
    engine_options: Sequence[str] = (),
    models: Sequence[str] = (MODEL,),
    checkpoints: MemoryCheckpoints | None = None,
    blocks: MemoryBlockStore | None = None,
    stream_records: MemoryStreamRecords | None = None,
    clocks: Mapping[int, SteadyClock] | None = None,
    through: Callable[[Dependencies], Dependencies] | None = None,
    engine: EngineCommand | None = None,
    verify: ssl.SSLContext | None = None,
    server_name: str | None = None,
    first: int = 0,
    **extra: str,
) -> AsyncIterator[LocalFleet]:
    """Start the same fleet without waiting for readiness; at the end of the block all agents have ended."""
    run = next(_runs)
    addresses = {f"i-{first + n:08x}": f"127.{70 + os.getpid() % 100}.{run}.{n + 1}" for n in range(size)}
    fleet = LocalFleet(
        group=MemoryScalingGroup(set(addresses)),
        checkpoints=checkpoints or MemoryCheckpoints(),
        blocks=blocks or MemoryBlockStore(),
        stream_records=stream_records or MemoryStreamRecords(),
        http=httpx.AsyncClient(timeout=30) if verify is None else _https_client(verify, server_name),
    )
    instances = fleet.instances = MemoryInstances(addresses, 8001)
    clients = [HttpClient() for _ in addresses]
    for number, (instance_id, host) in enumerate(addresses.items()):
        state_dir = folder / instance_id
        model = models[number % len(models)]
        argv = (
            fake_engine_command(host, model, seconds_per_token, engine_options)
            if engine is None
            else engine(host, ENGINE_PORT)
        )
        settings = from_environ(_environ(host, state_dir, argv, extra, model))
        identity = Identity(instance_id, ZONES[number % 3], "us-east-1", "g5.xlarge", host)
        metadata = MemoryMetadata(identity)
        outside = Dependencies(
            identity, metadata, instances, fleet.records, b"cluster key", fleet.group, fleet.checkpoints, fleet.blocks,
            fleet.stream_records,
        )  # fmt: skip
        if through is not None:
            outside = through(outside)
        agent = Agent(settings, outside, clients[number], signals=False, clock=(clocks or {}).get(number))
        scheme = "http" if verify is None else "https"
        fleet.nodes.append(LocalNode(instance_id, host, agent, metadata, state_dir, scheme=scheme))
    try:
        for node in fleet.nodes:
            node.life = asyncio.create_task(node.agent.run())
        yield fleet
    finally:
        await _stop(fleet)
        for client in clients:
            await client.close()


def _https_client(verify: ssl.SSLContext, server_name: str | None) -> httpx.AsyncClient:
    """Return a client whose requests check nodes' certificates under one name."""

    async def name_server(request: httpx.Request) -> None:
        if request.url.scheme == "https" and server_name is not None:
            request.extensions = {**request.extensions, "sni_hostname": server_name}

    return httpx.AsyncClient(timeout=30, verify=verify, event_hooks={"request": [name_server]})


async def _stop(fleet: LocalFleet) -> None:
    lives = [node.life for node in fleet.nodes if node.life is not None]
    for node in fleet.nodes:
        node.agent.request_drain()
    _, late = await asyncio.wait(lives, timeout=READY_WITHIN_S)
    for life in late:
        life.cancel()
    await fleet.http.aclose()
    assert not late, "a node did not end"
