"""A fleet on virtual time, too small for what its tenants request: the agent's own queue, router and load monitor.

Only the engines are emulated, with what matters here: a number of places, a queue of their own behind them (first come,
first served) and metrics. Peers' loads arrive as in a fleet: with answers, and twice a second.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from local.lone_node import lone_node
from node_agent.contract.errors import FleetFull
from node_agent.core.access.caller import Caller, KeyLimits, Scope
from node_agent.core.access.token_estimate import Count, estimate
from node_agent.core.common.address import Address
from node_agent.core.routing.router import RouteRequest
from node_agent.ports import Http
from node_agent.runtime.client_api.admission_queue import AdmissionQueue
from node_agent.runtime.client_api.key_limits import KeyLimiter
from node_agent.runtime.client_api.model_list import ModelList
from node_agent.runtime.client_api.request_admission import RequestAdmission
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.load_monitor import LoadMonitor
from node_agent.testing.fake_requests import MemoryRequest
from sim.fair_sharing import jains_index
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import status_of

PROMPT_BYTES = 160
LOADS_EVERY_S = 0.5


@dataclass(frozen=True)
class Tenant:
    """A tenant. clients: how many of its requests are open at once; answer: the tokens of one; their mean if it varies.

    max_tokens: that its requests name, None for the length of each answer; retry_s: its clients' wait after a 429, None
    for the Retry-After; key: of its requests, its name where empty.
    """

    name: str
    clients: int
    answer: int = 20
    max_tokens: int | None = None
    retry_s: float | None = None
    key: str = ""
    varies: bool = False


class _Answer:
    reads = status = 0
    first_read_at = last_read_at = 0.0
    is_event_stream = False

    def __init__(self, text: bytes) -> None:
        self._text = text

    async def read_all(self, max_bytes: int) -> bytes:
        return self._text

    def close(self) -> None:
        """Nothing to close."""


class Engine:
    """An engine with places; what finds none waits in the order of its arrival."""

    def __init__(self, places: int, seconds_per_token: float) -> None:
        self.places = places
        self.seconds_per_token = seconds_per_token
        self.open = 0
        self.most_open = 0
        self._free = asyncio.Semaphore(places)

    def __len__(self) -> int:
        return self.open

    def time_per_token_s(self) -> float:
        return self.seconds_per_token

    async def generate(self, tokens: int) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async with self._free:
                await asyncio.sleep(tokens * self.seconds_per_token)
        finally:
            self.open -= 1


class _Metrics:
    """The engine's /metrics."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def open(self, *_: object, **__: object) -> _Answer:
        running = min(self._engine.open, self._engine.places)
        named = {
            "num_requests_running": running,
            "num_requests_waiting": self._engine.open - running,
            "kv_cache_usage_perc": 0.5,
        }
        return _Answer("".join(f"vllm:{name} {value}\n" for name, value in named.items()).encode())


class Entry:
    """A node: its queue, its limits, its engine."""

    def __init__(self, number: int, size: int, engine: Engine, chance: Callable[[], float]) -> None:
        peers = [status_of(other) for other in range(size) if other != number]
        self.node = node = lone_node(status_of(number), peers, lambda: 0.0)
        self.engine = engine
        self.queue = AdmissionQueue(node, chance)
        limits = KeyLimiter(node, self.queue)
        self.admission = RequestAdmission(self.queue, limits, cast(ModelList, None))
        http, calls = cast(Http, _Metrics(engine)), cast(EngineCalls, engine)
        self.monitor = LoadMonitor(node, calls, http, Address("127.0.0.1", 1), lambda: 0.0)


@dataclass
class Fleet:
    """The nodes, and the tokens that tenants were served in lasts_s."""

    entries: list[Entry]
    chance: random.Random
    lasts_s: float
    served: Counter[str] = field(default_factory=Counter)

    @property
    def by_name(self) -> dict[str, Entry]:
        return {entry.node.instance_id: entry for entry in self.entries}

    async def share_loads(self) -> None:
        while True:
            await asyncio.sleep(LOADS_EVERY_S)
            for entry in self.entries:
                for other in self.entries:
                    if other is not entry:
                        entry.node.router.load_reported(other.node.instance_id, other.node.router.own_load.load)

    async def client(self, tenant: Tenant) -> None:
        """Send one request after another, for ever."""
        key = tenant.key or tenant.name
        caller = Caller(key, key, frozenset(Scope), KeyLimits())
        while True:
            entry = self.chance.choice(self.entries)
            length = tenant.answer
            if tenant.varies:
                length = max(1, round(self.chance.expovariate(1 / tenant.answer)))
            try:
                await self._request(entry, tenant, caller, length)
            except FleetFull as full:
                wait_s = full.retry_after_s if tenant.retry_s is None else tenant.retry_s
                await asyncio.sleep(wait_s)

    async def _request(self, entry: Entry, tenant: Tenant, caller: Caller, length: int) -> None:
        cost = estimate(PROMPT_BYTES, tenant.max_tokens or length)
        routing = RouteRequest("m", self.chance.getrandbits(32))
        route, counts = await entry.admission.admit(MemoryRequest(), routing, cost, caller)
        name = route.node.instance_id
        serving = self.by_name[name]
        entry.node.router.request_started(name)
        try:
            await serving.engine.generate(length)
            if serving is not entry:
                entry.node.router.load_reported(name, serving.node.router.own_load.load)
        finally:
            entry.node.router.request_ended(name)
        counts.close(200, Count(PROMPT_BYTES // 4, length))
        self.served[tenant.name] += length


def serve(
    tenants: list[Tenant],
    *,
    nodes: int = 1,
    places: int = 4,
    seconds_per_token: float = 0.02,
    warm_s: float = 0.0,
    lasts_s: float = 120.0,
    seed: int = 1,
    after_warm: Callable[[Fleet], None] = lambda fleet: None,
) -> Fleet:
    """Return the fleet after tenants have used it for warm_s virtual seconds, which do not count, and for lasts_s."""

    async def run() -> Fleet:
        chance = random.Random(seed)
        engines = [Engine(places, seconds_per_token) for _ in range(nodes)]
        fleet = Fleet([Entry(at, nodes, engine, chance.random) for at, engine in enumerate(engines)], chance, lasts_s)
        work: list[Coroutine[Any, Any, None]] = [fleet.share_loads()]
        for entry in fleet.entries:
            work += [entry.queue.run(), entry.monitor.run()]
        work += [fleet.client(tenant) for tenant in tenants for _ in range(tenant.clients)]
        tasks = [asyncio.ensure_future(each) for each in work]
        await asyncio.sleep(warm_s)
        fleet.served.clear()
        after_warm(fleet)
        await asyncio.sleep(lasts_s)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
        assert not failed, failed
        return fleet

    return run_virtual(run, sockets=False)


def index(fleet: Fleet, tenants: list[Tenant]) -> float:
    """Return Jain's index of what tenants that all request more than their share were served."""
    return jains_index([fleet.served[tenant.name] for tenant in tenants])
