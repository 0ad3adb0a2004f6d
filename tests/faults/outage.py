"""Outages of AWS services in front of the in-memory fakes: absent, slow, throttled, denied, or with wrong answers."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from node_agent.contract.errors import MetadataUnavailable, StoreUnavailable, TransientError
from node_agent.dependencies import Dependencies
from tests.scenarios.local_fleet import LocalFleet

MODES = ("absent", "slow", "throttled", "denied", "wrong")
"""absent: no answer until it recovers; slow: right, and late; wrong: the adapter raises an unexpected error."""

SERVICES = ("metadata", "ec2", "dynamodb", "s3", "autoscaling")

SEED = int(os.environ.get("FAULTS_SEED", "1"))
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
"""Rounds of each test; `make test` runs one."""


def seeds() -> list[int]:
    """Return one seed for each round."""
    return [SEED + number for number in range(ROUNDS)]


@dataclass
class Outage:
    """One service. mode: how it fails now, None if it does not; calls: calls since the outage began."""

    error: type[TransientError]
    mode: str | None = None
    calls: int = 0
    recovered: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, mode: str) -> None:
        self.mode, self.calls, self.recovered = mode, 0, asyncio.Event()

    def end(self) -> None:
        self.mode = None
        self.recovered.set()

    async def call_through(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.calls += 1
        match self.mode:
            case "absent":
                await self.recovered.wait()
                raise self.error("the connection timed out")
            case "slow":
                await asyncio.sleep(0.5)
            case "throttled":
                raise self.error("RequestLimitExceeded")
            case "denied":
                raise self.error("AccessDenied")
            case "wrong":
                raise ValueError("<html>502 Bad Gateway</html>")
        return await call()


class FailingPort:
    """A port whose coroutine methods pass through an outage. Other attributes are those of the fake."""

    def __init__(self, port: Any, outage: Outage) -> None:
        self._port = port
        self._outage = outage

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._port, name)
        if not asyncio.iscoroutinefunction(value):
            return value

        async def call_through(*arguments: Any, **keywords: Any) -> Any:
            return await self._outage.call_through(lambda: value(*arguments, **keywords))

        return call_through


def outages() -> dict[str, Outage]:
    return {name: Outage(MetadataUnavailable if name == "metadata" else StoreUnavailable) for name in SERVICES}


def with_outages(services: Mapping[str, Outage], outside: Dependencies) -> Dependencies:
    """Return the dependencies of a node with these outages in front of its AWS ports."""

    def put(service: str, port: Any) -> Any:
        return None if port is None else FailingPort(port, services[service])

    return replace(
        outside,
        metadata=put("metadata", outside.metadata),
        instances=put("ec2", outside.instances),
        records=put("dynamodb", outside.records),
        stream_records=put("dynamodb", outside.stream_records),
        checkpoints=put("s3", outside.checkpoints),
        blocks=put("s3", outside.blocks),
        group=put("autoscaling", outside.group),
    )


def random_outages(seed: int, count: int) -> list[tuple[str, str]]:
    """Return (service, mode) pairs, each service once before any repeats."""
    chance = random.Random(seed)
    rounds: list[tuple[str, str]] = []
    while len(rounds) < count:
        order = list(SERVICES)
        chance.shuffle(order)
        rounds += [(service, chance.choice(MODES)) for service in order]
    return rounds[:count]


async def has_recovered(fleet: LocalFleet) -> bool:
    """Return True if the tags and the record of every node show its current state."""
    for node in fleet.nodes:
        state = node.agent.parts.node.state.value
        record = fleet.records.records.get(node.instance_id)
        tags = fleet.instances.tags.get(node.instance_id, {})
        if tags.get("SynktiState") != state or record is None or record.state.value != state:
            return False
    return True
