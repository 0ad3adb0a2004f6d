"""Limits of keys in a fleet of real agents: what a client receives, that all nodes count together, and what stays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from node_agent.core.access.caller import KeyLimits
from tests.scenarios.keys import as_key, use_keys
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually
from tests.scenarios.streams import CHAT, MESSAGES, PATHS, run_scenario
from tests.scenarios.test_resume import Reader

SHORT: dict[str, Any] = {**CHAT, "max_tokens": 3}


async def post(fleet: LocalFleet, node: LocalNode, key: str, body: dict[str, Any] = SHORT) -> httpx.Response:
    return await fleet.http.post(node.url + PATHS["chat"], json=body, headers=as_key(key))


def test_all_nodes_together_admit_a_keys_requests_and_refuse_the_rest(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        use_keys(fleet, a1=KeyLimits(requests_per_minute=12))
        answers = await asyncio.gather(*(post(fleet, node, "a1") for _ in range(8) for node in fleet.nodes))
        statuses = sorted(answer.status_code for answer in answers)
        assert 11 <= statuses.count(200) <= 13
        assert set(statuses) == {200, 429}
        await asyncio.sleep(1.5)  # the last counts reach all nodes
        for node in fleet.nodes:
            refused = await post(fleet, node, "a1")
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
            assert "limit 12, used 12" in error["message"]
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-ratelimit-limit-requests"] == "12"
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
            assert (await post(fleet, node, "another")).status_code == 200
            breakers = node.agent.parts.node.router
            assert all(candidate.breaker.is_closed for candidate in breakers._candidates.values())

    run_scenario(tmp_path, scenario)


def test_anthropics_clients_read_their_own_form_and_a_zero_is_no_429(tmp_path: Path) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 3}

    async def scenario(fleet: LocalFleet) -> None:
        use_keys(fleet, a1=KeyLimits(tokens_per_minute=5), none=KeyLimits(streams=0))
        url = fleet.nodes[0].url + "/v1/messages"
        refused = await fleet.http.post(url, json=body, headers=as_key("a1"))
        assert (refused.status_code, refused.json()["type"]) == (429, "error")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert "Request too large" in refused.json()["error"]["message"]
        assert "retry-after" not in refused.headers
        assert refused.headers["x-should-retry"] == "false"
        forbidden = await fleet.http.post(url, json=body, headers=as_key("none"))
        assert (forbidden.status_code, forbidden.json()["error"]["type"]) == (403, "permission_error")
        assert "retry-after" not in forbidden.headers

    run_scenario(tmp_path, scenario, size=1)


def test_answers_of_a_limited_key_have_what_remains_and_others_have_no_such_header(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        use_keys(fleet, a1=KeyLimits(requests_per_minute=100, tokens_per_minute=10_000))
        node = fleet.nodes[0]
        buffered = await post(fleet, node, "a1")
        assert buffered.headers["x-ratelimit-remaining-requests"] == "99"
        async with fleet.http.stream(
            "POST", node.url + PATHS["chat"], json={**SHORT, "stream": True}, headers=as_key("a1")
        ) as streamed:
            assert streamed.headers["x-ratelimit-remaining-requests"] == "98"
            assert int(streamed.headers["x-ratelimit-remaining-tokens"]) < 10_000
            await streamed.aread()
        usage = buffered.json()["usage"]
        key = node.agent.parts.clients.limits.table._by_id["a1"].usage
        counted = key.report(asyncio.get_running_loop().time()).tokens
        assert counted == 2 * usage["total_tokens"]  # no estimate is left
        for free in (await post(fleet, node, "free"), await fleet.http.post(node.url + PATHS["chat"], json=SHORT)):
            assert not [name for name in free.headers if name.startswith("x-ratelimit")]

    run_scenario(tmp_path, scenario, size=1)


def test_a_stream_of_a_key_at_its_limits_continues_at_another_node(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        use_keys(fleet, a1=KeyLimits(requests_per_minute=1, tokens_per_minute=900, streams=1))
        fleet.http.headers.update(as_key("a1"))
        entry, other = fleet.nodes[:2]
        reader = Reader(fleet)
        reading = asyncio.ensure_future(reader.request(entry, "chat", max_tokens=700))

        async def is_refused() -> bool:
            return reader.events > 20 and (await post(fleet, other, "a1")).status_code == 429

        await eventually("another node counts the stream", is_refused)
        await entry.crash()
        await reading
        assert not reader.done
        assert await reader.resume(other) == 200
        assert (reader.finish_reasons, reader.error) == (["length"], None)
        assert (await post(fleet, other, "a1")).status_code == 429

    run_scenario(tmp_path, scenario)


def test_a_request_in_one_piece_whose_client_leaves_counts_its_tokens(tmp_path: Path) -> None:
    body = {**CHAT, "max_tokens": 2_000}

    async def scenario(fleet: LocalFleet) -> None:
        use_keys(fleet, a1=KeyLimits(tokens_per_minute=100_000))
        node = fleet.nodes[0]
        waiting = asyncio.ensure_future(post(fleet, node, "a1", body))

        async def is_generated() -> bool:
            return len(node.agent.parts.clients.api.buffered_requests) == 1

        async def is_counted() -> bool:
            counted = node.agent.parts.node.metrics.key_tokens.labels("a1")._value.get()
            return bool(0 < counted <= 2_000 + 100)

        await eventually("an engine generates the answer", is_generated)
        waiting.cancel()
        await eventually("its tokens are counted", is_counted)

    run_scenario(tmp_path, scenario, size=1)
