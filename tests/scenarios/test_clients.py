"""Stock clients that lose the node they are connected to: the OpenAI SDKs, curl, the transport, the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop

import synkti_client
from local.setup import ROOT
from synkti_client import httpx
from tests.scenarios.clients import entry_of_the_stream, gateway, urls
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually
from tests.scenarios.streams import CHAT, TOKENS, expected, run_scenario

PROMPT = str(CHAT["messages"][0]["content"])  # type: ignore[index]
RIGHT = expected("chat", CHAT)
REQUEST: dict[str, Any] = {"model": MODEL, "messages": CHAT["messages"], "temperature": 0, "max_tokens": TOKENS}
EXTRA = {"ignore_eos": True}


async def interrupted(fleet: LocalFleet, reading: Awaitable[Any], how: str = "crash") -> Any:
    """Crash the entry of a stream, or send it a notice, and return what the client read to the end."""
    task = asyncio.ensure_future(reading)
    entry = await entry_of_the_stream(fleet)
    if how == "crash":
        await entry.crash()
    else:
        entry.notice(5.5)
    async with asyncio.timeout(60):
        return await task


async def read_async(client: openai.AsyncOpenAI) -> tuple[str, str | None]:
    text, reason = "", None
    stream = await client.chat.completions.create(**REQUEST, stream=True, extra_body=EXTRA)
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    return text, reason


def read_sync(client: openai.OpenAI) -> tuple[str, str | None]:
    text, reason = "", None
    for chunk in client.chat.completions.create(**REQUEST, stream=True, extra_body=EXTRA):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    return text, reason


@pytest.mark.parametrize("how", ["crash", "notice"])
def test_the_async_sdk_with_the_transport_survives_the_loss_of_its_entry(tmp_path: Path, how: str) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        http = synkti_client.async_http_client(urls(fleet))
        async with openai.AsyncOpenAI(base_url="http://synkti/v1", api_key="none", http_client=http) as client:
            assert await interrupted(fleet, read_async(client), how) == (RIGHT.text, RIGHT.finish_reason)

    run_scenario(tmp_path, scenario)


def test_the_sync_sdk_with_the_transport_survives_the_loss_of_its_entry(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        http = synkti_client.http_client(urls(fleet)[:1])
        with openai.OpenAI(base_url="http://synkti/v1", api_key="none", http_client=http) as client:
            reading = asyncio.to_thread(read_sync, client)
            assert await interrupted(fleet, reading) == (RIGHT.text, RIGHT.finish_reason)

    run_scenario(tmp_path, scenario)


async def stock_python(base_url: str) -> tuple[str, str | None]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        return await read_async(client)


async def output_of(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out


async def stock_node(base_url: str) -> tuple[str, str | None]:
    script = str(ROOT / "tests" / "scenarios" / "openai_node.mjs")
    result = json.loads(await output_of("node", script, base_url, MODEL, PROMPT, str(TOKENS)))
    return result["text"], result["reason"]


async def curl(base_url: str) -> tuple[str, str | None]:
    body = json.dumps({**REQUEST, **EXTRA, "stream": True})
    out = await output_of(
        "curl", "-sSN", f"{base_url}/chat/completions", "-H", "content-type: application/json", "-d", body
    )
    events = [line[6:] for line in out.split(b"\n") if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    return "".join(c["delta"].get("content") or "" for c in choices), choices[-1]["finish_reason"]


@pytest.mark.parametrize("client", [stock_python, stock_node, curl])
def test_stock_clients_behind_the_gateway_survive_the_loss_of_the_entry(
    tmp_path: Path, client: Callable[[str], Awaitable[tuple[str, str | None]]]
) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        async with gateway(urls(fleet)[:1]) as base_url:
            assert await interrupted(fleet, client(base_url)) == (RIGHT.text, RIGHT.finish_reason)

    run_scenario(tmp_path, scenario)


def test_a_buffered_request_survives_the_loss_of_the_entry(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        http = synkti_client.async_http_client(urls(fleet))
        async with openai.AsyncOpenAI(base_url="http://synkti/v1", api_key="none", http_client=http) as client:
            request = asyncio.create_task(client.chat.completions.create(**REQUEST, extra_body=EXTRA))
            busy: list[LocalNode] = []

            async def connected() -> bool:
                busy[:] = [node for node in fleet.nodes if node.agent.parts.servers[0].busy]
                return bool(busy)

            await eventually("a node has the request", connected)
            await busy[0].crash()
            async with asyncio.timeout(60):
                answer = await request
            assert answer.choices[0].message.content == RIGHT.text

    run_scenario(tmp_path, scenario)


def test_a_gateway_client_that_disconnects_ends_its_generation(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        async with gateway(urls(fleet)) as base_url:
            body = {**REQUEST, **EXTRA, "stream": True}
            async with fleet.http.stream("POST", f"{base_url}/chat/completions", json=body) as response:
                await anext(response.aiter_raw())

            async def idle() -> bool:
                return not any(len(node.agent.parts.clients.streams) for node in fleet.nodes)

            await eventually("no node has an open stream", idle, within_s=2.0)

    run_scenario(tmp_path, scenario)


def test_a_fleet_without_reachable_nodes_is_a_connect_error_and_a_503_at_the_gateway() -> None:
    async def scenario() -> None:
        patience = synkti_client.RetryPolicy(max_attempts=3, max_retry_s=2.0)
        transport = synkti_client.async_transport(["http://127.0.0.1:9"], retry_policy=patience)
        async with httpx.AsyncClient(transport=transport) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("http://synkti/v1/models")
        async with gateway(["http://127.0.0.1:9"]) as base_url, httpx.AsyncClient(timeout=60.0) as http:
            answer = await http.get(f"{base_url}/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_node_answers")

    uvloop.run(scenario())


def test_a_bad_request_gets_the_nodes_error_unchanged_through_the_gateway(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        async with gateway(urls(fleet)) as base_url, openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
            with pytest.raises(openai.NotFoundError, match="does not exist; served: m"):
                await client.chat.completions.create(model="other", messages=[], stream=True)
            assert [model.id async for model in client.models.list()] == [MODEL]

    run_scenario(tmp_path, scenario)
