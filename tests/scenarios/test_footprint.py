"""Memory and file descriptors of a node's process after many streams: neither may grow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually
from tests.scenarios.streams import PLAIN, run_scenario

AT_ONCE = 16
GROWTH = 1.2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Collect garbage, which clients leave, and return the resident bytes of this process, which runs all agents."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def targets_of_descriptors() -> Counter[str]:
    """How many descriptors there are of each kind, for the message of a failure."""
    kinds = Counter[str]()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed
            kinds[os.readlink(f"/proc/self/fd/{name}").split(":[")[0]] += 1
    return kinds


async def many(nodes: list[LocalNode], streams: int) -> None:
    """Read `streams` short streams to their ends, over AT_ONCE connections."""
    numbers = iter(range(streams))

    async def one_after_another() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            for number in numbers:
                body = {**PLAIN, "prompt": f"stream {number}", "stream": True, "max_tokens": 4}
                answer = await http.post(f"{nodes[number % len(nodes)].url}/v1/completions", json=body)
                assert answer.content.endswith(b"data: [DONE]\n\n"), answer.text

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))


@pytest.mark.parametrize("streams", [1_000, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(1_200)])])
def test_memory_and_descriptors_do_not_grow_with_the_number_of_streams_served(tmp_path: Path, streams: int) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        await many(fleet.nodes, 200)  # what a process allocates once is allocated
        before, open_before = resident_bytes(), descriptors()
        await many(fleet.nodes, streams)

        async def is_back() -> bool:
            # Connections to engines stay open for the next requests: as many as there were at once, which the first
            # streams need not have reached.
            return descriptors() <= open_before + AT_ONCE

        try:
            await eventually("no descriptor is left", is_back)
        except AssertionError as error:
            error.add_note(f"{open_before} before, now {targets_of_descriptors()}")
            raise
        assert resident_bytes() <= GROWTH * before
        assert all(len(node.agent.parts.clients.streams) == 0 for node in fleet.nodes)
        assert all(not node.agent.parts.replication.manager._streams for node in fleet.nodes)

    run_scenario(tmp_path, scenario, seconds_per_token=0.0, SYNKTI_REPLICA_LAG_S="5")
