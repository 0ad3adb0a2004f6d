"""A fleet of three real agents with fake engines: what a client receives when an engine or a node is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from local.fake_engine import model as fake_model
from node_agent.contract.errors import ConfigurationError
from node_agent.contract.states import NodeState
from node_agent.core.node.lifecycle import EXIT_ENGINE_GAVE_UP
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually, unready_fleet
from tests.scenarios.streams import CHAT, PATHS, PLAIN, expected, find_engine, open_stream, read_until, run_scenario

INTERRUPTIONS: dict[str, Callable[[LocalNode], None]] = {
    "its engine is killed": lambda node: node.kill_engine(),
    "its engine falls silent": lambda node: node.kill_engine(signal.SIGSTOP),
    "EC2 interrupts it at short notice": lambda node: node.notice(lead_s=5.5),
    "it receives SIGTERM": lambda node: node.agent.request_drain(),
}
SHORT = {"SYNKTI_TERM_GRACE_S": "5.5"}  # so that after SIGTERM, too, nothing can finish in place


@pytest.mark.parametrize("kind", ["chat", "plain"])
@pytest.mark.parametrize("interruption", INTERRUPTIONS)
def test_a_stream_survives_the_loss_of_its_engine(tmp_path: Path, kind: str, interruption: str) -> None:
    body = {**(CHAT if kind == "chat" else PLAIN), "return_token_ids": True}

    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, kind, body)
        entry = fleet.others(engine)[0]
        async with open_stream(fleet, entry, kind, body) as reader:
            await read_until(reader, 40, lambda: INTERRUPTIONS[interruption](engine))
        right = expected(kind, body)
        assert (reader.error, reader.done) == (None, True)
        assert reader.ids == right.token_ids
        assert reader.text == right.text
        assert reader.finish_reason == right.finish_reason
        metrics = (await fleet.http.get(f"{entry.admin_url}/metrics")).text
        assert "\nsynkti_continuation_pause_seconds_count 0.0" not in metrics
        assert "\nsynkti_continuations_total{" in metrics

    run_scenario(tmp_path, scenario, **SHORT)


def test_a_node_terminated_by_its_scaling_group_drains_and_completes_the_lifecycle_action(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        async with open_stream(fleet, fleet.others(engine)[0], "chat", CHAT) as reader:
            await read_until(reader, 40, lambda: setattr(engine.metadata, "is_terminating", True))
        assert (reader.error, reader.text) == (None, expected("chat", CHAT).text)
        assert engine.life is not None
        assert await asyncio.wait_for(engine.life, 10) == 0
        assert fleet.group.waits_for == {other.instance_id for other in fleet.others(engine)}

    run_scenario(tmp_path, scenario, **SHORT)


def test_a_stream_survives_the_loss_of_its_entrys_own_engine(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        async with open_stream(fleet, engine, "chat", CHAT) as reader:
            await read_until(reader, 40, engine.kill_engine)
        assert (reader.error, reader.text) == (None, expected("chat", CHAT).text)

    run_scenario(tmp_path, scenario)


def test_the_handoff_error_of_a_draining_entry_names_the_nodes_to_resume_at(tmp_path: Path) -> None:
    body = {**CHAT, "max_tokens": 1000}

    async def scenario(fleet: LocalFleet) -> None:
        entry = fleet.nodes[0]
        async with open_stream(fleet, entry, "chat", body) as reader:
            await read_until(reader, 20, lambda: entry.notice(lead_s=5.5))
        assert reader.error is not None
        assert (reader.error["code"], reader.done) == ("handoff", False)
        assert reader.response.headers["x-synkti-stream"] not in reader.error["message"], "errors are logged"
        assert all(f"{other.host}:8000" in reader.error["message"] for other in fleet.others(entry))
        assert expected("chat", body).text.startswith(reader.text)

    run_scenario(tmp_path, scenario)


def test_a_stream_that_can_finish_before_the_deadline_is_not_handed_off(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        async with open_stream(fleet, fleet.others(engine)[0], "chat", CHAT) as reader:
            await read_until(reader, 40, lambda: engine.notice(lead_s=60.0))
        assert reader.text == expected("chat", CHAT).text
        # No continuation was needed, and the node ended with its last stream, long before the deadline.
        metrics = (await fleet.http.get(f"{fleet.others(engine)[0].admin_url}/metrics")).text
        assert "synkti_continuations_total{" not in metrics
        assert engine.life is not None
        assert await asyncio.wait_for(engine.life, 10) == 0
        record = fleet.records.records[engine.instance_id]
        assert record.state is NodeState.GONE
        assert [step.step for step in record.story] == ["started", "ready", "notice-seen", "drained"]
        (drain,) = fleet.records.drains.values()
        steps = {step.step: step.count for step in drain.steps}
        assert steps == {
            "requested": None, "cordoned": None, "planned": 0, "finished": 1, "retired": None, "untagged": None,
        }  # fmt: skip
        left_s = [drain.deadline - step.at for step in drain.steps]
        assert left_s == sorted(left_s, reverse=True)
        assert left_s[-1] > 50

    run_scenario(tmp_path, scenario)


def test_a_stream_survives_the_loss_of_two_engines_at_once(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        first = await find_engine(fleet, "chat", CHAT)
        entry = fleet.others(first)[0]
        second = fleet.others(first)[1]

        def both() -> None:
            first.kill_engine()
            second.kill_engine()

        async with open_stream(fleet, entry, "chat", CHAT) as reader:
            await read_until(reader, 30, both)
        assert reader.text == expected("chat", CHAT).text

    run_scenario(tmp_path, scenario)


def test_a_stop_string_still_ends_a_stream_after_its_engine_was_lost(tmp_path: Path) -> None:
    right = expected("chat", {**CHAT, "ignore_eos": False, "max_tokens": 2000})
    stop = right.text[-12:-6]
    body = {**CHAT, "ignore_eos": False, "max_tokens": 2000, "stop": [stop]}

    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", body)
        async with open_stream(fleet, fleet.others(engine)[0], "chat", body) as reader:
            await read_until(reader, 20, engine.kill_engine)
        assert reader.text == expected("chat", body).text
        assert reader.finish_reason == "stop"

    run_scenario(tmp_path, scenario)


@pytest.mark.parametrize("interruption", ["its engine is killed", "EC2 interrupts it at short notice"])
def test_a_buffered_request_is_repeated_at_another_engine(tmp_path: Path, interruption: str) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        request = asyncio.create_task(fleet.http.post(fleet.others(engine)[0].url + PATHS["chat"], json=CHAT))

        async def under_way() -> bool:
            return "synkti_engine_requests 1.0" in (await fleet.http.get(f"{engine.admin_url}/metrics")).text

        await eventually("the request is at the engine", under_way)
        INTERRUPTIONS[interruption](engine)
        response = await request
        assert response.status_code == 200
        assert response.json()["choices"][0]["message"]["content"] == expected("chat", CHAT).text
        assert response.headers["x-synkti-node"] != engine.instance_id

    run_scenario(tmp_path, scenario)


def test_a_stream_that_cannot_be_continued_exactly_ends_with_an_error(tmp_path: Path) -> None:
    body = {**CHAT, "frequency_penalty": 0.5}

    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", body)
        async with open_stream(fleet, fleet.others(engine)[0], "chat", body) as reader:
            await read_until(reader, 20, engine.kill_engine)
        assert reader.error is not None
        assert reader.error["code"] == "continuation_impossible"
        assert "frequency_penalty" in reader.error["message"]
        assert not reader.done
        assert expected("chat", CHAT).text.startswith(reader.text)

    run_scenario(tmp_path, scenario)


def test_a_client_that_disconnects_ends_its_generation_at_once(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        body = {**CHAT, "max_tokens": 3000}
        async with open_stream(fleet, fleet.others(engine)[0], "chat", body) as reader:
            await anext(reader.response.aiter_bytes())

        async def idle() -> bool:
            text = (await fleet.http.get(f"http://{engine.host}:8002/metrics")).text
            return 'vllm:num_requests_running{engine="0",model_name="m"} 0.0' in text

        await eventually("the engine is idle", idle, within_s=3.0)

    run_scenario(tmp_path, scenario)


def test_a_client_that_abandons_a_buffered_request_ends_its_generation_at_once(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        body = {**CHAT, "max_tokens": 3000}
        for entry in (engine, fleet.others(engine)[0]):
            with pytest.raises(httpx.ReadTimeout):
                await fleet.http.post(entry.url + PATHS["chat"], json=body, timeout=0.3)

            async def idle() -> bool:
                text = (await fleet.http.get(f"http://{engine.host}:8002/metrics")).text
                return 'vllm:num_requests_running{engine="0",model_name="m"} 0.0' in text

            await eventually("the engine is idle", idle, within_s=3.0)

    run_scenario(tmp_path, scenario)


def test_each_bad_request_gets_its_own_error_and_the_fleet_still_serves(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url

        async def error(body: bytes | dict[str, Any], path: str = PATHS["chat"]) -> tuple[int, str, str]:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            response = await fleet.http.post(url + path, content=content, headers={"content-type": "application/json"})
            error_body = response.json()["error"]
            return response.status_code, error_body["code"], error_body["message"]

        assert (await error(b"{"))[:2] == (400, "invalid_request")
        assert (await error({**PLAIN, "n": 2_000}, PATHS["plain"]))[:2] == (400, "limit_exceeded")
        for wrong in (b"[]", {"model": MODEL}, {**CHAT, "max_tokens": "many"}, {**CHAT, "stream": "maybe"}):
            assert (await error(wrong))[0] == 400  # the engine's own error
        status, code, message = await error({**CHAT, "model": "gpt-7"})
        assert (status, code) == (404, "model_not_found")
        assert MODEL in message
        assert (await error({**CHAT, "messages": [{"role": "user", "content": "x" * 70_000}]}))[:2] == (
            413,
            "request_too_large",
        )
        assert (await error(b"", "/nowhere"))[:2] == (404, "unknown_route")
        # The engine's own errors are forwarded unchanged, streamed or not.
        assert (await error({**CHAT, "max_tokens": 9, "min_tokens": 10}))[0] == 400
        assert (await error({**CHAT, "max_tokens": 9, "min_tokens": 10, "stream": True}))[0] == 400
        assert (await fleet.http.get(url + PATHS["chat"])).status_code == 405
        good = await fleet.http.post(url + PATHS["chat"], json=CHAT)
        assert good.status_code == 200

    run_scenario(tmp_path, scenario, size=2, SYNKTI_MAX_BODY_BYTES="65536")


def test_too_many_streams_on_a_node_get_a_429(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        node = fleet.nodes[0]
        async with open_stream(fleet, node, "chat", CHAT) as reader:
            await anext(reader.response.aiter_bytes())
            refused = await fleet.http.post(node.url + PATHS["chat"], json={**CHAT, "stream": True})
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "too_many_streams"
            assert int(refused.headers["retry-after"]) >= 1

    run_scenario(tmp_path, scenario, size=1, SYNKTI_MAX_STREAMS="1")


def test_without_a_ready_node_requests_get_a_503_with_retry_after(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        node = fleet.nodes[0]
        node.kill_engine()

        async def unready() -> bool:
            return (await fleet.http.get(f"{node.url}/readyz")).status_code == 503

        await eventually("the node is not ready", unready)
        refused = await fleet.http.post(node.url + PATHS["chat"], json=CHAT)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_ready_node"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await fleet.http.get(f"{node.url}/healthz")).status_code == 200
        await eventually("the engine is back", lambda: fleet.ready(node))

    run_scenario(tmp_path, scenario, size=1)


def test_a_draining_node_forwards_new_requests(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        engine = await find_engine(fleet, "chat", CHAT)
        async with open_stream(fleet, engine, "chat", CHAT) as reader:
            await read_until(reader, 20, lambda: engine.notice(lead_s=100.0))
            # The notice came while it was listening; the stream above kept the node running until now.
        body = {**CHAT, "max_tokens": 400}
        async with open_stream(fleet, engine, "chat", body) as late:
            await read_until(late)
        assert late.response.headers["x-synkti-node"] != engine.instance_id
        assert late.text == expected("chat", body).text

    async def at_once(fleet: LocalFleet) -> None:
        with contextlib.suppress(httpx.ConnectError):  # drained and gone already: its port refuses, nothing hangs
            await scenario(fleet)

    run_scenario(tmp_path, at_once)


def test_other_routes_are_forwarded_and_the_models_of_the_fleet_are_listed(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        url = fleet.nodes[0].url
        tokens = await fleet.http.post(f"{url}/tokenize", json={"model": MODEL, "prompt": "héllo"})
        assert tokens.json()["tokens"] == fake_model.encode("héllo")
        assert (await fleet.http.post(f"{url}/detokenize", json={"tokens": [1]})).status_code == 404, "not allowed"
        assert (await fleet.http.get(f"{url}/v1/nothing")).status_code == 404
        models = (await fleet.http.get(f"{url}/v1/models")).json()
        assert [card["id"] for card in models["data"]] == [MODEL]

    run_scenario(tmp_path, scenario, size=2, SYNKTI_ALLOWED_ROUTES="/tokenize")


def test_the_peer_api_rejects_unsigned_requests(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        url = f"http://{fleet.nodes[0].host}:8001"
        for path in ("/peer/v1/members", "/peer/v1/take", "/peer/v1/engine/v1/completions", "/"):
            refused = await fleet.http.post(url + path, json={})
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "not_a_peer"

    run_scenario(tmp_path, scenario, size=1)


def test_a_port_in_use_is_one_clear_configuration_error(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        with pytest.raises(ConfigurationError, match=r"front door cannot listen on .*:8000: Address already in use"):
            await fleet.nodes[0].agent.run()

    run_scenario(tmp_path, scenario, size=1)


def test_an_engine_command_that_cannot_be_run_ends_the_agent(tmp_path: Path) -> None:
    async def run() -> int:
        async with unready_fleet(tmp_path, 1, SYNKTI_ENGINE_COMMAND='["/nonexistent/vllm"]') as fleet:
            life = fleet.nodes[0].life
            assert life is not None
            return await asyncio.wait_for(life, 10)

    assert uvloop.run(run()) == EXIT_ENGINE_GAVE_UP


def test_an_engine_that_exceeds_its_restarts_ends_the_agent(tmp_path: Path) -> None:
    async def run() -> int:
        async with unready_fleet(
            tmp_path, 1, SYNKTI_ENGINE_COMMAND='["/bin/false"]', SYNKTI_ENGINE_RESTARTS="1"
        ) as fleet:
            life = fleet.nodes[0].life
            assert life is not None
            return await asyncio.wait_for(life, 10)

    assert uvloop.run(run()) == EXIT_ENGINE_GAVE_UP
