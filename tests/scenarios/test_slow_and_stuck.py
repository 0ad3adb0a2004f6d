"""Engines that are slow, short of blocks, or stuck behind a healthy /health, under real agents.

A slow engine loses nothing; a stuck one is found, what it served goes on elsewhere, and it is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.scenarios.local_fleet import LocalFleet, LocalNode, eventually
from tests.scenarios.streams import (
    CHAT,
    PLAIN,
    StreamReader,
    expected,
    find_engine,
    open_stream,
    read_until,
    run_scenario,
)

STUCK_S = 3.0
FLEET: dict[str, Any] = {"engine_options": ["--faults"]}
SETTINGS = {"SYNKTI_ENGINE_STUCK_S": str(STUCK_S), "SYNKTI_MIN_SILENCE_S": "1"}
SLOW = {**PLAIN, "max_tokens": 6}


async def change(fleet: LocalFleet, node: LocalNode, **wanted: Any) -> None:
    answered = await fleet.http.post(f"http://{node.host}:8002/standin/core", json=wanted)
    assert answered.status_code == 200, answered.text


async def metrics(fleet: LocalFleet, name: str) -> list[str]:
    """A metric's lines, of all nodes."""
    texts = [(await fleet.http.get(f"{node.url}/metrics")).text for node in fleet.nodes]
    return [line for text in texts for line in text.splitlines() if line.startswith(f"{name}{{")]


async def whole(fleet: LocalFleet, entry: LocalNode, body: dict[str, Any], kind: str = "plain") -> StreamReader:
    async with open_stream(fleet, entry, kind, body) as heard:
        await read_until(heard)
    return heard


@pytest.mark.parametrize("kind", ["chat", "plain"])
@pytest.mark.parametrize("at_entry", [True, False])
def test_a_stuck_core_is_found_its_streams_go_on_and_it_is_started_anew(
    tmp_path: Path, kind: str, at_entry: bool
) -> None:
    body = {**(CHAT if kind == "chat" else PLAIN), "return_token_ids": True}

    async def story(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, kind, body)
        entry = engine if at_entry else fleet.others(engine)[0]
        stuck: list[asyncio.Task[None]] = []

        def strike() -> None:
            stuck.append(asyncio.create_task(change(fleet, engine, wedged=True)))

        began = time.monotonic()
        async with open_stream(fleet, entry, kind, body) as heard:
            await read_until(heard, 40, strike)
        assert (heard.error, heard.done) == (None, True)
        assert (heard.ids, heard.text) == (expected(kind, body).token_ids, expected(kind, body).text)
        assert time.monotonic() - began >= STUCK_S - 1.0, "it was given its time"
        assert [line for line in await metrics(fleet, "synkti_engine_losses_total") if 'why="engine-stuck"' in line]
        await eventually("it was started anew", lambda: fleet.ready(engine))
        assert (await fleet.http.get(f"http://{engine.host}:8002/standin/core")).json()["wedged"] is False

    run_scenario(tmp_path, story, **FLEET, **SETTINGS)


def test_a_whole_answer_of_a_stuck_engine_is_asked_again_elsewhere_and_the_node_is_out_of_the_routes(
    tmp_path: Path,
) -> None:
    async def story(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "plain", PLAIN)
        entry = fleet.others(engine)[0]
        await change(fleet, engine, wedged=True)
        answered = await fleet.http.post(f"{entry.url}/v1/completions", json=PLAIN)
        assert answered.status_code == 200
        assert answered.json()["choices"][0]["text"] == expected("plain", PLAIN).text
        assert answered.headers["x-synkti-node"] != engine.instance_id

        async def was_out() -> bool:
            steps = [step.step for step in fleet.records.records[engine.instance_id].story]
            return "engine-lost" in steps and await fleet.ready(engine)

        await eventually("its node was out of the routes, and is back", was_out)

    run_scenario(tmp_path, story, **FLEET, **SETTINGS)


def test_an_idle_core_that_hangs_is_found_before_a_client_comes(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        node = fleet.nodes[0]
        await change(fleet, node, wedged=True)

        async def is_anew() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                answered = await fleet.http.get(f"http://{node.host}:8002/standin/core")
                return answered.json()["wedged"] is False and await fleet.ready(node)
            return False

        async def starts() -> bool:
            return not await fleet.ready(node)

        await eventually("it was found", starts)
        await eventually("it was started anew", is_anew)

    run_scenario(tmp_path, story, **FLEET, **SETTINGS)


async def assert_nothing_lost(fleet: LocalFleet) -> None:
    assert await metrics(fleet, "synkti_engine_losses_total") == []
    assert await metrics(fleet, "synkti_continuations_total") == []
    assert [line for line in await metrics(fleet, "synkti_engine_states_total") if 'state="stuck"' in line] == []


def test_a_model_of_seconds_a_token_loses_nothing(tmp_path: Path) -> None:
    """Longer than the inter-token timeout and than the time after which it counts as slow, from the first token on."""

    async def story(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            await change(fleet, node, seconds_per_token=2.5)
        heard = await asyncio.gather(*(whole(fleet, node, SLOW) for node in fleet.nodes for _ in range(2)))
        assert [each.text for each in heard] == [expected("plain", SLOW).text] * 6
        await assert_nothing_lost(fleet)

    run_scenario(tmp_path, story, **FLEET, **{**SETTINGS, "SYNKTI_ENGINE_STUCK_S": "10"})


def test_streams_whose_blocks_are_taken_wait_and_lose_nothing(tmp_path: Path) -> None:
    body = {**PLAIN, "max_tokens": 400}

    async def story(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "plain", body)
        begun = asyncio.Barrier(5)

        async def one(entry: LocalNode) -> StreamReader:
            async with open_stream(fleet, entry, "plain", body) as heard:
                await read_until(heard, 20, lambda: waits.append(asyncio.create_task(begun.wait())))
            return heard

        waits: list[asyncio.Task[int]] = []
        reading = [asyncio.create_task(one(fleet.nodes[number % 3])) for number in range(4)]
        await begun.wait()
        await change(fleet, engine, preempt={"seconds": 5.0, "share": 0.5})
        heard = await asyncio.gather(*reading)
        assert [each.text for each in heard] == [expected("plain", body).text] * 4
        await assert_nothing_lost(fleet)

    run_scenario(tmp_path, story, **FLEET, **SETTINGS)


def test_one_long_step_holds_up_everybody_and_loses_nobody(tmp_path: Path) -> None:
    async def story(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "plain", PLAIN)
        held: list[asyncio.Task[None]] = []

        def strike() -> None:
            held.append(asyncio.create_task(change(fleet, engine, step_s=2.5)))

        async with open_stream(fleet, fleet.others(engine)[0], "plain", PLAIN) as heard:
            await read_until(heard, 40, strike)
        assert heard.text == expected("plain", PLAIN).text
        await assert_nothing_lost(fleet)

    run_scenario(tmp_path, story, **FLEET, **{**SETTINGS, "SYNKTI_ENGINE_STUCK_S": "10"})
