"""What one client sends must not cost the streams of others their journals: they outlive the node of their entry.

Each story has victims, whose streams run at one entry; an attack; and the entry's death. Then every victim comes back
at another node and reads on in the same answer. The answers are longer than any story takes.
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


async def survive(fleet: LocalFleet, attack: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Fails where one victim cannot read on after the entry's death."""
    entry, others = fleet.nodes[0], fleet.nodes[1:]
    victims = [Reader(fleet) for _ in range(VICTIMS)]
    reading = [
        asyncio.create_task(victim.ask(entry, "plain", max_tokens=TOKENS, headers=KEEPS_IDS)) for victim in victims
    ]

    async def all_read() -> bool:
        return all(victim.events > 3 for victim in victims)

    await eventually("the victims read", all_read)
    await attack()
    await entry.crash()
    await asyncio.gather(*reading, return_exceptions=True)
    answer = expected("plain", {**PLAIN, "max_tokens": TOKENS}).text
    for number, victim in enumerate(victims):
        assert not victim.done, "the answers are too short for this story"
        had = len(victim.text[0])
        await eventually(f"victim {number} comes back", partial(back, victim, others[number % 2]), within_s=30.0)
        assert len(victim.text[0]) > had
        assert answer.startswith(victim.text[0])


async def back(victim: Reader, node: LocalNode) -> bool:
    if await victim.come_back(node, until=victim.events + 5) == 200:
        return True
    assert victim.error is not None
    assert victim.error["code"] in ("journal_behind", "no_ready_node"), victim.error
    return False


async def figure(fleet: LocalFleet, node: LocalNode, name: str) -> float:
    """A metric's sum over its labels."""
    text = (await fleet.http.get(f"{node.url}/metrics")).text
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


def of_numbers_that_grow(size: int) -> bytes:
    """Valid, and within the bound; written anew each of its numbers is four times as long."""
    numbers = b"1e15," * (size // 5)
    return orjson.dumps({**PLAIN_STREAM, "max_tokens": TOKENS, "user": "u"})[:-1] + b',"x":[%b1]}' % numbers


TOO_LARGE = {
    "a frame": padded(15 * 1024 * 1024),
    "a journal": padded(MAX_JOURNAL_BYTES),
    "an opening": padded(MAX_HEADER_BYTES),
    "numbers that grow": of_numbers_that_grow(3_000_000),
}


def test_a_request_that_is_too_large_to_be_kept_is_the_loss_of_its_own_stream_alone(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]

        async def attack() -> None:
            for number, (what, body) in enumerate(TOO_LARGE.items(), start=1):
                async with stream_of(entry, body) as response:
                    assert response.status_code == 200, (what, await response.aread())
                    assert response.headers["x-synkti-durability"] == "none; reason=request-too-large", what
                    async for _ in response.aiter_raw():
                        break
                assert await figure(fleet, entry, "synkti_streams_unkept_total") == number
            assert await figure(fleet, entry, "synkti_keeper_losses_total") == 0

        await survive(fleet, attack)

    run_scenario(tmp_path, story, seconds_per_token=0.05, SYNKTI_KEEPER_LAG_S="5")


def test_requests_that_their_client_broke_off_leave_room_for_others(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        async def attack() -> None:
            for number in range(30):
                async with stream_of(fleet.nodes[number % 3], padded(400_000)) as response:
                    assert response.status_code == 200
                    async for _ in response.aiter_raw():
                        break
            for node in fleet.nodes:
                assert await figure(fleet, node, "synkti_kept_bytes") <= 4 * 1024 * 1024

        await survive(fleet, attack)

    run_scenario(
        tmp_path, story, seconds_per_token=0.05, SYNKTI_KEEPER_LAG_S="5", SYNKTI_MAX_KEPT_BYTES=str(4 * 1024 * 1024)
    )


def test_refused_and_broken_off_before_an_answer_nothing_is_kept(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]
        for _ in range(5):
            body = {**PLAIN_STREAM, "prompt": "x " * 100_000}  # longer than the context
            response = await fleet.http.post(f"{entry.url}/v1/completions", json=body)
            assert response.status_code == 400, response.text

        async def nothing_kept() -> bool:
            return sum([await figure(fleet, node, "synkti_kept_bytes") for node in fleet.nodes]) == 0

        await eventually("no journal is kept", nothing_kept)

    run_scenario(tmp_path, story)
