"""One client's requests must not cost other clients' streams their journals, which survive the crash of the entry.

Each scenario has victims, whose streams run at one entry, an attack, and the crash of the entry. Then every victim
resumes at another node and reads more of the same answer. The answers are longer than a scenario takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson

from node_agent.core.replication.replica_store import MAX_HEADER_BYTES, MAX_JOURNAL_BYTES
from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually
from tests.scenarios.streams import PLAIN, expected, run_scenario
from tests.scenarios.test_resume import Reader

TOKENS = 3_000
VICTIMS = 6
PLAIN_STREAM = {**PLAIN, "stream": True}
KEEPS_IDS = {"x-synkti-event-ids": "true"}


async def assert_victims_resume(fleet: LocalFleet, attack: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run an attack and crash the entry. Raises AssertionError if a victim cannot resume afterwards."""
    entry, others = fleet.nodes[0], fleet.nodes[1:]
    victims = [Reader(fleet) for _ in range(VICTIMS)]
    reading = [
        asyncio.create_task(victim.request(entry, "plain", max_tokens=TOKENS, headers=KEEPS_IDS)) for victim in victims
    ]

    async def all_read() -> bool:
        return all(victim.events > 3 for victim in victims)

    await eventually("all victims have read events", all_read)
    await attack()
    await entry.crash()
    await asyncio.gather(*reading, return_exceptions=True)
    answer = expected("plain", {**PLAIN, "max_tokens": TOKENS}).text
    for number, victim in enumerate(victims):
        assert not victim.done, "the answers are too short for this scenario"
        had = len(victim.text[0])
        await eventually(f"victim {number} resumes", partial(resumes, victim, others[number % 2]), within_s=30.0)
        assert len(victim.text[0]) > had
        assert answer.startswith(victim.text[0])


async def resumes(victim: Reader, node: LocalNode) -> bool:
    if await victim.resume(node, until=victim.events + 5) == 200:
        return True
    assert victim.error is not None
    assert victim.error["code"] in ("journal_behind", "no_ready_node"), victim.error
    return False


async def metric(fleet: LocalFleet, node: LocalNode, name: str) -> float:
    """Return the sum of a metric over its labels."""
    text = (await fleet.http.get(f"{node.admin_url}/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


@contextlib.asynccontextmanager
async def stream_of(node: LocalNode, body: bytes) -> AsyncIterator[httpx.Response]:
    headers = {**KEEPS_IDS, "content-type": "application/json"}
    async with (
        httpx.AsyncClient(timeout=30) as http,
        http.stream("POST", f"{node.url}/v1/completions", content=body, headers=headers) as response,
    ):
        yield response


def padded(size: int) -> bytes:
    return orjson.dumps({**PLAIN_STREAM, "max_tokens": TOKENS, "user": "u" * size})


def numbers_that_grow(size: int) -> bytes:
    """Return a valid body within the bound whose numbers become four times as long when serialized again."""
    numbers = b"1e15," * (size // 5)
    return orjson.dumps({**PLAIN_STREAM, "max_tokens": TOKENS})[:-1] + b',"user":[%b1]}' % numbers


TOO_LARGE = {
    "a frame": padded(15 * 1024 * 1024),
    "a journal": padded(MAX_JOURNAL_BYTES),
    "an opening": padded(MAX_HEADER_BYTES),
    "numbers that grow": numbers_that_grow(3_000_000),
}


def test_a_request_too_large_to_replicate_loses_the_durability_of_its_own_stream_only(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]

        async def attack() -> None:
            for number, (what, body) in enumerate(TOO_LARGE.items(), start=1):
                async with stream_of(entry, body) as response:
                    assert response.status_code == 200, (what, await response.aread())
                    assert response.headers["x-synkti-durability"] == "none; reason=request-too-large", what
                    async for _ in response.aiter_raw():
                        break
                assert await metric(fleet, entry, "synkti_streams_unreplicated_total") == number
            assert await metric(fleet, entry, "synkti_replica_losses_total") == 0

        await assert_victims_resume(fleet, attack)

    run_scenario(tmp_path, scenario, seconds_per_token=0.05, SYNKTI_REPLICA_LAG_S="5")


def test_journals_of_aborted_requests_leave_room_for_others(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        async def attack() -> None:
            for number in range(30):
                async with stream_of(fleet.nodes[number % 3], padded(400_000)) as response:
                    assert response.status_code == 200
                    async for _ in response.aiter_raw():
                        break
            for node in fleet.nodes:
                assert await metric(fleet, node, "synkti_replica_bytes") <= 4 * 1024 * 1024

        await assert_victims_resume(fleet, attack)

    run_scenario(
        tmp_path,
        scenario,
        seconds_per_token=0.05,
        SYNKTI_REPLICA_LAG_S="5",
        SYNKTI_MAX_REPLICA_BYTES=str(4 * 1024 * 1024),
    )


def test_a_rejected_request_leaves_no_journal(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]
        for _ in range(5):
            body = {**PLAIN_STREAM, "prompt": "x " * 30_000}  # longer than the context
            response = await fleet.http.post(f"{entry.url}/v1/completions", json=body)
            assert response.status_code == 400, response.text

        async def nothing_kept() -> bool:
            return sum([await metric(fleet, node, "synkti_replica_bytes") for node in fleet.nodes]) == 0

        await eventually("no journal is stored", nothing_kept)

    run_scenario(tmp_path, scenario)
