"""A whole agent on virtual time, with in-memory ports that return anything, an engine, and unknown peers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from node_agent.adapters.http import HttpClient
from node_agent.adapters.steady_clock import SteadyClock
from node_agent.agent import Agent
from node_agent.composition import engine as composed_engine
from node_agent.contract.states import NodeState
from node_agent.contract.tags import NodeTags
from node_agent.core.common.address import Address
from node_agent.core.membership.wire.messages import UNKNOWN_BOOT_ID, Header, MessageKind, MessageMac, write_header
from node_agent.core.membership.wire.updates import write_intro
from node_agent.core.node.status import NodeStatus, Pool
from node_agent.dependencies import Dependencies
from node_agent.ports import ExchangeLost, Identity
from node_agent.settings import from_environ
from node_agent.testing.fake_keys import MemoryAuditLog, MemoryKeyStore, MemorySecrets
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
from tests.unit.core.access.keys import document, entry, key_number

MODEL, KEY = "m", b"cluster key"
CLIENT_KEY = key_number(1)
KEYS = document(entry(CLIENT_KEY))
AUTHORIZATION = {"authorization": f"Bearer {CLIENT_KEY.text.decode()}"}
_runs = itertools.count(1)


@dataclass(frozen=True)
class Raise:
    """A turn of a port method: it raises. error: creates the exception, for each call."""

    error: Callable[[], Exception]


@dataclass(frozen=True)
class Delay:
    """A turn of a port method: it answers after that many virtual seconds."""

    seconds: float


@dataclass(frozen=True)
class Return:
    """A turn of a port method: it returns this value instead of the fake's."""

    value: Any


Turn = Raise | Delay | Return | None
"""What a call does. None: return the fake's value."""


class FaultyAdapter:
    """A port's fake whose methods take turns in rotation, until `calm`."""

    def __init__(self, twin: Any, turns: Mapping[str, Sequence[Turn]]) -> None:
        self._twin = twin
        self._turns = {name: itertools.cycle(each) for name, each in turns.items() if each}
        self.is_calm = False

    def set_turns(self, name: str, turns: Sequence[Turn]) -> None:
        """Set the turns of a method that had turns before; a caller may hold a reference to a plain one."""
        self._turns[name] = itertools.cycle(turns)

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self._twin, name)
        if name not in self._turns or self.is_calm:
            return plain

        async def odd(*arguments: Any, **named: Any) -> Any:
            turn = next(self._turns[name])
            match turn:
                case Raise(error):
                    raise error()
                case Delay(seconds):
                    await asyncio.sleep(seconds)
                case Return(value):
                    return value
            return await plain(*arguments, **named)

        return odd


@dataclass
class AgentFixture:
    """A running agent. host: its loopback address; folder: its state directory.

    odd: its ports by name; twins: the fakes behind them.
    """

    host: str
    agent: Agent
    engine: LocalEngine
    odd: dict[str, FaultyAdapter]
    twins: Mapping[str, Any]
    folder: Path
    client: HttpClient = field(default_factory=HttpClient)
    life: asyncio.Task[int] | None = None

    def calm(self) -> None:
        """Make all ports and the engine answer correctly from now on."""
        for port in self.odd.values():
            port.is_calm = True
        self.engine.odd.clear()

    def lives(self) -> bool:
        return self.life is not None and not self.life.done()

    async def ready(self, within_s: float) -> bool:
        """Return True if the agent becomes ready within so many virtual seconds."""
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + within_s
        while clock() < give_up_at and self.lives():
            if await self.request("GET", "/readyz") == 200:
                return True
            await asyncio.sleep(0.5)
        return False

    async def request(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request to the client API and return the status, 0 without an answer."""
        with contextlib.suppress(ExchangeLost):
            response = await self.client.open(
                Address(self.host, 8000), method, path, headers=AUTHORIZATION, body=body, read_timeout_s=30.0
            )
            try:
                await response.read_all(1024 * 1024)
                return response.status
            finally:
                response.close()
        return 0

    async def stream(self, tokens: int = 5) -> tuple[str, str]:
        """Read a stream to its end, and return its text and finish reason."""
        request = {"model": MODEL, "prompt": "a night train", "max_tokens": tokens, "temperature": 0, "stream": True}
        response = await self.client.open(
            Address(self.host, 8000), "POST", "/v1/completions",
            headers={"content-type": "application/json", **AUTHORIZATION},
            body=json.dumps(request | {"ignore_eos": True}).encode(), read_timeout_s=60.0,
        )  # fmt: skip
        try:
            body = await response.read_all(1024 * 1024)
        finally:
            response.close()
        assert response.status == 200, body
        events = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
        assert events[-1] == b"[DONE]", body
        choices = [choice for event in events[:-1] for choice in json.loads(event).get("choices", ())]
        return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]

    def bugs(self) -> int:
        """Return the number of unexpected exceptions so far."""
        return sum(
            int(sample.value)
            for metric in self.agent.unexpected.metrics.unexpected.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    def datagram(self, data: bytes) -> None:
        """Send a datagram to the node from any address."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, (self.host, 8001))

    def introduce(self, host: str) -> None:
        """Send an authenticated JOIN from the address of an unknown peer."""
        status = NodeStatus(
            f"i-{host}", f"{host}:8001", f"{host}:8000", NodeState.READY, Pool("z", "t"), MODEL, 10**12
        )  # fmt: skip
        life = host.encode()[-6:].rjust(6, b"x")
        message = write_header(Header(MessageKind.JOIN, life, UNKNOWN_BOOT_ID, 1, 1)) + write_intro(life, status)
        self.datagram(MessageMac(KEY).append(message))


def _environ(host: str, folder: Path) -> dict[str, str]:
    return {
        "SYNKTI_MODEL_NAME": MODEL, "SYNKTI_MODEL_DIR": "unused", "SYNKTI_FRONT_HOST": host, "SYNKTI_PEER_HOST": host,
        "SYNKTI_ADMIN_HOST": host,
        "SYNKTI_ENGINE_HOST": host, "SYNKTI_ADVERTISE_ADDRESS": f"{host}:8001", "SYNKTI_STATE_DIR": str(folder),
        "SYNKTI_BOOT_SPREAD_S": "0.1", "SYNKTI_CLUSTER_KEY_READ_S": "20",
    }  # fmt: skip


@contextlib.asynccontextmanager
async def run_agent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, turns: Mapping[str, Mapping[str, Sequence[Turn]]]
) -> AsyncIterator[AgentFixture]:
    """Run an agent in a virtual loop; it has ended when the block is left. turns: by port and method."""
    clock = asyncio.get_running_loop().time
    run = next(_runs)
    host = f"127.{170 + os.getpid() % 70}.{run // 250}.{run % 250 + 1}"
    engine = LocalEngine(host, 8002, MODEL)
    monkeypatch.setattr(composed_engine, "EngineProcess", lambda *_: engine)
    identity = Identity("i-00000000", "us-east-1a", "us-east-1", "g5.xlarge", host)
    instances = MemoryInstances({"i-00000000": host}, 8001)
    instances.tags["i-00000000"] = NodeTags("synkti", None).encode()
    twins = {
        "Metadata": MemoryMetadata(identity), "Instances": instances, "Records": MemoryRecords(),
        "Checkpoints": MemoryCheckpoints(), "BlockStore": MemoryBlockStore(),
        "ScalingGroup": MemoryScalingGroup({"i-00000000"}), "StreamRecords": MemoryStreamRecords(),
        "Secrets": MemorySecrets({"synkti/cluster-key": KEY}),
        "KeyStore": MemoryKeyStore(KEYS.to_bytes(), KEYS.to_bytes()), "AuditLog": MemoryAuditLog(),
    }  # fmt: skip
    odd = {name: FaultyAdapter(twin, turns.get(name, {})) for name, twin in twins.items()}
    ports: dict[str, Any] = odd
    outside = Dependencies(
        identity, ports["Metadata"], ports["Instances"], ports["Records"], KEY, ports["ScalingGroup"],
        ports["Checkpoints"], ports["BlockStore"], ports["StreamRecords"], secrets=ports["Secrets"],
        client_keys=ports["KeyStore"], audit_log=ports["AuditLog"],
    )  # fmt: skip
    to_engine = HttpClient()
    agent = Agent(
        from_environ(_environ(host, folder / str(run))), outside, to_engine,
        signals=False, clock=SteadyClock(lambda: 1.7e9 + clock(), clock), monotonic=clock, random=Random(run),
    )  # fmt: skip
    asyncio.get_running_loop().set_exception_handler(agent.unexpected.handle_loop_exception)
    fixture = AgentFixture(host, agent, engine, odd, twins, folder / str(run))
    fixture.life = asyncio.create_task(agent.run())
    try:
        yield fixture
    finally:
        fixture.calm()
        if fixture.lives():
            agent.request_drain()
            await asyncio.wait({fixture.life}, timeout=200.0)
        fixture.life.cancel()
        await asyncio.wait({fixture.life})
        for client in (to_engine, fixture.client):
            await client.close()
        monkeypatch.undo()
