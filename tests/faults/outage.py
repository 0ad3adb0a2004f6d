"""AWS's services as they fail: slow, throttled, denied, wrong, or not there at all. In front of the twins in memory."""

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

WAYS = ("absent", "slow", "throttled", "denied", "wrong")
"""absent: no answer until it is back; slow: right, and late; wrong: an adapter fails over an answer nobody expected."""

SERVICES = ("metadata", "ec2", "dynamodb", "s3", "autoscaling")

SEED = int(os.environ.get("FAULTS_SEED", "1"))
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))
"""Of each kind; `make test` plays one."""


def seeds() -> list[int]:
    """One for each round, printed with the test's name."""
    return [SEED + number for number in range(ROUNDS)]


@dataclass
class Outage:
    """One service. way: how it fails now, None where it does not; asked: how often it was asked meanwhile."""

    error: type[TransientError]
    way: str | None = None
    asked: int = 0
    back: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, way: str) -> None:
        self.way, self.asked, self.back = way, 0, asyncio.Event()

    def end(self) -> None:
        self.way = None
        self.back.set()

    async def ask(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.asked += 1
        match self.way:
            case "absent":
                await self.back.wait()
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
    """A port whose calls meet an outage. Only what is asked of AWS waits; a test sees through to the twin."""

    def __init__(self, port: Any, outage: Outage) -> None:
        self._port = port
        self._outage = outage

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._port, name)
        if not asyncio.iscoroutinefunction(value):
            return value

        async def ask(*given: Any, **named: Any) -> Any:
            return await self._outage.ask(lambda: value(*given, **named))

        return ask


def outages() -> dict[str, Outage]:
    return {name: Outage(MetadataUnavailable if name == "metadata" else StoreUnavailable) for name in SERVICES}


def with_outages(away: Mapping[str, Outage], outside: Dependencies) -> Dependencies:
    """AWS as a node has it, behind these outages."""

    def put(service: str, port: Any) -> Any:
        return None if port is None else FailingPort(port, away[service])

    return replace(
        outside,
        metadata=put("metadata", outside.metadata),
        instances=put("ec2", outside.instances),
        records=put("dynamodb", outside.records),
        checkpoints=put("s3", outside.checkpoints),
        blocks=put("s3", outside.blocks),
        group=put("autoscaling", outside.group),
    )


def random_outages(seed: int, count: int) -> list[tuple[str, str]]:
    """Which service fails how, one after another: each service once before any comes again."""
    chance = random.Random(seed)
    rounds: list[tuple[str, str]] = []
    while len(rounds) < count:
        order = list(SERVICES)
        chance.shuffle(order)
        rounds += [(service, chance.choice(WAYS)) for service in order]
    return rounds[:count]


async def has_recovered(fleet: LocalFleet) -> bool:
    """Whether tags and records say of every node what it is now."""
    for node in fleet.nodes:
        state = node.agent.replication.node.state.value
        record = fleet.records.records.get(node.instance_id)
        tags = fleet.instances.tags.get(node.instance_id, {})
        if tags.get("SynktiState") != state or record is None or record.state.value != state:
            return False
    return True
