"""Fair shares of full nodes: real agents and connections on virtual time, and a tenant that sends ten times as much.

What counts is how a number of answers is divided among the tenants. `pytest -s` prints it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from local.fake_engine.config import Config
from sim.fair_sharing import GOAL, jains_index
from tests.borders.virtual_time import run_virtual
from tests.scenarios.keys import as_key, callers_by_header
from tests.scenarios.local_fleet import MODEL
from tests.scenarios.streams import CHAT, PATHS
from tests.scenarios.virtual_fleet import VirtualFleet, VirtualNode, virtual_fleet

TOKENS = 20
BODY: dict[str, Any] = {**CHAT, "max_tokens": TOKENS}
ENGINE = Config(model=MODEL, seconds_per_token=0.02, max_num_seqs=8)
CLIENTS = {"t1": 8, "t2": 8, "x10": 80}
"""Of each tenant at each node, each with one request at a time: three times its share of the places and more."""

WARM, COUNTED = 260, 240
"""Answers of each node: until the first burst is served, and those that are counted."""


class Tenants:
    """Clients that send one request after another. keys: of each tenant, by its name."""

    def __init__(self, fleet: VirtualFleet, keys: dict[str, str]) -> None:
        self.served: Counter[str] = Counter()
        self._fleet = fleet
        self._keys = keys
        self._changed = asyncio.Condition()

    async def client(self, tenant: str, node: VirtualNode, number: int) -> None:
        while True:
            number += len(CLIENTS) * 1_000
            body = {**BODY, "messages": [{"role": "user", "content": f"story number {number} of {tenant}"}]}
            answer = await self._fleet.request(node, "POST", PATHS["chat"], body, as_key(self._keys[tenant]))
            if answer.status == 429:
                await asyncio.sleep(0.5)  # as a client that does not obey Retry-After
                continue
            assert answer.status == 200, answer.body
            async with self._changed:
                self.served[tenant] += answer.body["usage"]["completion_tokens"]
                self._changed.notify_all()

    async def count(self, answers: int) -> Counter[str]:
        """Return the tokens that each tenant is served until so many more answers have reached clients."""
        self.served.clear()
        async with self._changed:
            await self._changed.wait_for(lambda: self.served.total() >= answers * TOKENS)
        return self.served.copy()


async def serve(fleet: VirtualFleet, keys: dict[str, str]) -> float:
    """Return Jain's index of what tenants are served."""
    for node in fleet.nodes:
        node.agent.parts.clients.keys.identify = callers_by_header({})  # type: ignore[method-assign,assignment] # its own parameters' names
    tenants = Tenants(fleet, keys)
    clients = [
        asyncio.ensure_future(tenants.client(tenant, node, number))
        for node in fleet.nodes
        for tenant, count in CLIENTS.items()
        for number in range(count)
    ]
    await tenants.count(WARM * len(fleet.nodes))
    served = await tenants.count(COUNTED * len(fleet.nodes))
    for each in clients:
        each.cancel()
    ended = await asyncio.gather(*clients, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
    index = jains_index([served[tenant] for tenant in CLIENTS])
    print(f"\n{len(fleet.nodes)} nodes: {dict(served)}, Jain's index {index:.3f}")
    return index


def index_of(folder: Path, size: int, keys: dict[str, str]) -> float:
    async def run() -> float:
        async with virtual_fleet(folder, size, ENGINE) as fleet:
            return await serve(fleet, keys)

    return run_virtual(run)


@pytest.mark.parametrize("size", [1, pytest.param(3, marks=pytest.mark.long)])
def test_tenants_of_full_nodes_are_served_alike_whatever_one_of_them_sends(tmp_path: Path, size: int) -> None:
    assert index_of(tmp_path, size, {tenant: tenant for tenant in CLIENTS}) >= GOAL


@pytest.mark.long
def test_within_one_key_requests_are_served_in_their_order_and_the_large_tenant_has_nearly_all(tmp_path: Path) -> None:
    assert index_of(tmp_path, 1, dict.fromkeys(CLIENTS, "one")) < 0.7
