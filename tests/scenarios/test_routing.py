"""Routing in a fleet of real agents: by session, prefix and model, with full engines, and after a hand-off."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually
from tests.scenarios.streams import CHAT, PATHS, expected, find_engine, open_stream, read_until, run_scenario

SHORT: dict[str, Any] = {**CHAT, "max_tokens": 2}


async def request(fleet: LocalFleet, node: LocalNode, body: dict[str, Any], **headers: str) -> httpx.Response:
    response = await fleet.http.post(node.url + PATHS["chat"], json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response


def turn(words: str, *more: str) -> dict[str, Any]:
    """Return a chat request whose conversation begins with these words."""
    first = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": words}]
    later = [
        {"role": role, "content": text} for role, text in zip(("assistant", "user") * len(more), more, strict=False)
    ]
    return {**SHORT, "messages": [*first, *later]}


def test_all_turns_of_a_conversation_reach_one_engine_through_any_entry(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engines = set()
        for words in (f"story number {number}" for number in range(12)):
            nodes_used = {
                (await request(fleet, node, body)).headers["x-synkti-node"]
                for node in fleet.nodes
                for body in (turn(words), turn(words, "Yes?", "Go on."))
            }
            assert len(nodes_used) == 1, words
            engines |= nodes_used
        assert len(engines) == len(fleet.nodes)

    run_scenario(tmp_path, scenario)


def test_all_requests_of_a_session_reach_one_engine_with_route_session(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        answers = [
            await request(fleet, node, turn(f"{number}"), **{"x-synkti-session": "s-1"})
            for number, node in enumerate(fleet.nodes * 3)
        ]
        assert len({answer.headers["x-synkti-node"] for answer in answers}) == 1
        assert {answer.headers["x-synkti-route"] for answer in answers} == {"session"}
        refused = await fleet.http.post(
            fleet.nodes[0].url + PATHS["chat"], json=SHORT, headers={"x-synkti-session": "s" * 300}
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")

    run_scenario(tmp_path, scenario)


def test_a_full_fleet_queues_requests_and_answers_429_after_the_wait(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        node = fleet.nodes[0]
        body = {**CHAT, "max_tokens": 4_000}
        in_progress = [asyncio.ensure_future(fleet.http.post(node.url + PATHS["chat"], json=body)) for _ in range(5)]

        async def full() -> bool:
            nodes = (await fleet.http.get(f"{node.url}/v1/synkti/nodes")).json()["nodes"]
            return bool(nodes[0]["waiting"] >= 4)

        await eventually("the engine is full", full)
        refused = await fleet.http.post(node.url + PATHS["chat"], json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "fleet_full")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        waiting = asyncio.ensure_future(fleet.http.post(node.url + PATHS["chat"], json=SHORT))
        for each in in_progress:
            each.cancel()
        assert (await waiting).status_code == 200

    run_scenario(tmp_path, scenario, size=1, engine_options=("--max-num-seqs", "1"))


def test_a_request_is_routed_to_a_node_that_serves_its_model_and_all_models_are_listed(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        for node in fleet.nodes:
            models = (await fleet.http.get(f"{node.url}/v1/models")).json()["data"]
            assert sorted(card["id"] for card in models) == [MODEL, "n"]
            for model, number in ((MODEL, 0), ("n", 1)):
                answer = await request(fleet, node, {**SHORT, "model": model})
                assert answer.headers["x-synkti-node"] == fleet.nodes[number].instance_id
            missing = await fleet.http.post(node.url + PATHS["chat"], json={**SHORT, "model": "o"})
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
            assert "served: m, n." in missing.json()["error"]["message"]

    run_scenario(tmp_path, scenario, size=2, models=(MODEL, "n"))


def test_a_draining_node_names_the_handoff_target_and_the_entry_routes_there(tmp_path: Path) -> None:
    body = {**CHAT, "max_tokens": 900}

    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", body)
        entry = fleet.others(engine)[0]
        async with open_stream(fleet, entry, "chat", body) as reader:
            await read_until(reader, 40, lambda: engine.notice(lead_s=6.5))
        assert reader.text == expected("chat", body).text
        metrics = (await fleet.http.get(f"{entry.admin_url}/metrics")).text
        routes = [line for line in metrics.splitlines() if line.startswith('synkti_routes_total{reason="handed-over')]
        assert len(routes) == 1
        assert 'synkti_continuations_total{reason="handoff"} 1.0' in metrics

    run_scenario(tmp_path, scenario)


def test_a_drain_in_progress_is_listed_with_its_steps(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        assert (await fleet.http.get(f"{engine.admin_url}/v1/synkti/drains")).json() == {"drains": []}
        body = {**CHAT, "max_tokens": 2_000}
        async with open_stream(fleet, fleet.others(engine)[0], "chat", body) as reader:
            events = reader.response.aiter_lines()
            for _ in range(40):
                await anext(events)
            engine.notice(lead_s=100.0)

            async def planned() -> bool:
                answer = await fleet.http.get(f"{engine.admin_url}/v1/synkti/drains")
                drains = json.loads(answer.content)["drains"]
                return bool(drains) and "planned" in {step["step"] for step in drains[0]["steps"]}

            await eventually("the drain is listed with its plan", planned)
            (drain,) = (await fleet.http.get(f"{engine.admin_url}/v1/synkti/drains")).json()["drains"]
            assert drain["why"] == "notice-seen"
            cordoned = next(step for step in drain["steps"] if step["step"] == "cordoned")
            requested = next(step for step in drain["steps"] if step["step"] == "requested")
            assert cordoned["at"] - requested["at"] < 0.5
            assert 90 < cordoned["left_s"] < 100

    run_scenario(tmp_path, scenario)
