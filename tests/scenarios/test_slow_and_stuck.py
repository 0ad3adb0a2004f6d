"""Engines that are slow, short of blocks, or stuck while /health answers 200, under real agents.

A slow engine loses no request. A stuck one is detected and restarted, and its requests continue at other engines.
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


async def set_core(fleet: LocalFleet, node: LocalNode, **wanted: Any) -> None:
    response = await fleet.http.post(f"http://{node.host}:8002/standin/core", json=wanted)
    assert response.status_code == 200, response.text


async def metrics(fleet: LocalFleet, name: str) -> list[str]:
    """Return the lines of a metric, of all nodes."""
    texts = [(await fleet.http.get(f"{node.admin_url}/metrics")).text for node in fleet.nodes]
    return [line for text in texts for line in text.splitlines() if line.startswith(f"{name}{{")]


async def whole(fleet: LocalFleet, entry: LocalNode, body: dict[str, Any], kind: str = "plain") -> StreamReader:
    async with open_stream(fleet, entry, kind, body) as reader:
        await read_until(reader)
    return reader


@pytest.mark.parametrize("kind", ["chat", "plain"])
@pytest.mark.parametrize("at_entry", [True, False])
def test_a_stuck_engine_core_is_restarted_and_its_streams_continue_elsewhere(
    tmp_path: Path, kind: str, at_entry: bool
) -> None:
    body = {**(CHAT if kind == "chat" else PLAIN), "return_token_ids": True}

    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, kind, body)
        entry = engine if at_entry else fleet.others(engine)[0]
        stuck: list[asyncio.Task[None]] = []

        def inject() -> None:
            stuck.append(asyncio.create_task(set_core(fleet, engine, wedged=True)))

        began = time.monotonic()
        async with open_stream(fleet, entry, kind, body) as reader:
            await read_until(reader, 40, inject)
        assert (reader.error, reader.done) == (None, True)
        assert (reader.ids, reader.text) == (expected(kind, body).token_ids, expected(kind, body).text)
        assert time.monotonic() - began >= STUCK_S - 1.0, "the stuck timeout has to pass first"
        assert [line for line in await metrics(fleet, "synkti_engine_losses_total") if 'reason="engine-stuck"' in line]
        await eventually("the engine was restarted", lambda: fleet.ready(engine))
        assert (await fleet.http.get(f"http://{engine.host}:8002/standin/core")).json()["wedged"] is False

    run_scenario(tmp_path, scenario, **FLEET, **SETTINGS)


def test_a_buffered_request_at_a_stuck_engine_is_repeated_elsewhere_and_its_node_unrouted(
    tmp_path: Path,
) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "plain", PLAIN)
        entry = fleet.others(engine)[0]
        await set_core(fleet, engine, wedged=True)
        response = await fleet.http.post(f"{entry.url}/v1/completions", json=PLAIN)
        assert response.status_code == 200
        assert response.json()["choices"][0]["text"] == expected("plain", PLAIN).text
        assert response.headers["x-synkti-node"] != engine.instance_id

        async def was_out() -> bool:
            steps = [step.step for step in fleet.records.records[engine.instance_id].story]
            return "engine-lost" in steps and await fleet.ready(engine)

        await eventually("its node left the routes, and is back", was_out)

    run_scenario(tmp_path, scenario, **FLEET, **SETTINGS)


def test_an_idle_core_that_hangs_is_detected_without_any_request(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        node = fleet.nodes[0]
        await set_core(fleet, node, wedged=True)

        async def is_restarted() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                response = await fleet.http.get(f"http://{node.host}:8002/standin/core")
                return response.json()["wedged"] is False and await fleet.ready(node)
            return False

        async def not_ready() -> bool:
            return not await fleet.ready(node)

        await eventually("the stuck engine was detected", not_ready)
        await eventually("the engine was restarted", is_restarted)

    run_scenario(tmp_path, scenario, **FLEET, **SETTINGS)


async def assert_nothing_lost(fleet: LocalFleet) -> None:
    assert await metrics(fleet, "synkti_engine_losses_total") == []
    assert await metrics(fleet, "synkti_continuations_total") == []
    assert [line for line in await metrics(fleet, "synkti_engine_states_total") if 'state="stuck"' in line] == []


def test_a_model_that_takes_seconds_per_token_loses_no_stream(tmp_path: Path) -> None:
    """Longer than the inter-token timeout and than the time after which it counts as slow, from the first token on."""

    async def scenario(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            await set_core(fleet, node, seconds_per_token=2.5)
        readers = await asyncio.gather(*(whole(fleet, node, SLOW) for node in fleet.nodes for _ in range(2)))
        assert [each.text for each in readers] == [expected("plain", SLOW).text] * 6
        await assert_nothing_lost(fleet)

    run_scenario(tmp_path, scenario, **FLEET, **{**SETTINGS, "SYNKTI_ENGINE_STUCK_S": "10"})


def test_preempted_streams_wait_and_are_not_lost(tmp_path: Path) -> None:
    body = {**PLAIN, "max_tokens": 400}

    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "plain", body)
        begun = asyncio.Barrier(5)

        async def one(entry: LocalNode) -> StreamReader:
            async with open_stream(fleet, entry, "plain", body) as reader:
                await read_until(reader, 20, lambda: waits.append(asyncio.create_task(begun.wait())))
            return reader

        waits: list[asyncio.Task[int]] = []
        reading = [asyncio.create_task(one(fleet.nodes[number % 3])) for number in range(4)]
        await begun.wait()
        await set_core(fleet, engine, preempt={"seconds": 5.0, "share": 0.5})
        readers = await asyncio.gather(*reading)
        assert [each.text for each in readers] == [expected("plain", body).text] * 4
        await assert_nothing_lost(fleet)

    run_scenario(tmp_path, scenario, **FLEET, **SETTINGS)


def test_one_long_engine_step_delays_streams_and_loses_none(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "plain", PLAIN)
        held: list[asyncio.Task[None]] = []

        def inject() -> None:
            held.append(asyncio.create_task(set_core(fleet, engine, step_s=2.5)))

        async with open_stream(fleet, fleet.others(engine)[0], "plain", PLAIN) as reader:
            await read_until(reader, 40, inject)
        assert reader.text == expected("plain", PLAIN).text
        await assert_nothing_lost(fleet)

    run_scenario(tmp_path, scenario, **FLEET, **{**SETTINGS, "SYNKTI_ENGINE_STUCK_S": "10"})
