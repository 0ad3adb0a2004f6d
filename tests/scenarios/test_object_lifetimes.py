"""Tests that a request's objects are freed when it ends, without the garbage collector, whose runs pause the node.

Real agents with fake engines. The collector is off, so that objects which only it could free are found.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from node_agent.adapters.http_client_exchange import Exchange
from node_agent.adapters.http_request import Request
from node_agent.core.journal.stream_header import StreamHeader
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.event_stream import EventStream
from node_agent.runtime.client_api.buffered_request import BufferedRequest
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.engine.client import PeerEngineCall
from node_agent.runtime.engine.engine_call import EngineCall
from node_agent.runtime.replication.replicated_stream import ReplicatedStream
from tests.scenarios.leaks import collector_off, count_instances
from tests.scenarios.local_fleet import MODEL, LocalFleet, LocalNode, eventually
from tests.scenarios.streams import CHAT, PLAIN, run_scenario

REQUEST_CLASSES = (
    ClientStream, ReplicatedStream, ReplicatedLog, SseResponse, ChunkStream, EventStream, TokenHistory,
    GenerationRequest, StreamHeader, BufferedRequest, EngineCall, PeerEngineCall, Exchange, Request,
)  # fmt: skip
"""Classes that have no instances once every request has ended."""


async def not_freed(what: str) -> list[str]:
    """Return a line about what stays of a request; no line if nothing does."""

    async def nothing_left() -> bool:
        return not count_instances(REQUEST_CLASSES)

    try:
        await eventually("all is freed", nothing_left)
    except AssertionError:
        return [f"after {what}: {dict(count_instances(REQUEST_CLASSES))}"]
    return []


SendRequest = Callable[[LocalFleet, LocalNode, httpx.AsyncClient], Coroutine[Any, Any, None]]


async def streamed(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient, **fields: Any) -> None:
    answer = await http.post(
        f"{node.url}/v1/chat/completions", json={**CHAT, "max_tokens": 20, "stream": True, **fields}
    )
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def event_stream(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient, **fields: Any) -> None:
    body = {"model": MODEL, "input": "a night train", "max_output_tokens": 20, "stream": True}
    answer = await http.post(f"{node.url}/v1/responses", json=body)
    assert answer.status_code == 200


async def aborted(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    body = {**PLAIN, "stream": True, "user": "u" * 1_000_000, "max_tokens": 2_000}
    async with http.stream("POST", f"{node.url}/v1/completions", json=body) as answer:
        async for _ in answer.aiter_raw():
            break


async def aborted_at_once(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    with contextlib.suppress(httpx.TimeoutException):
        await http.post(f"{node.url}/v1/completions", json={**PLAIN, "stream": True}, timeout=0.001)


async def whole(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{node.url}/v1/completions", json={**PLAIN, "max_tokens": 5})
    assert answer.status_code == 200


async def whole_aborted(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    with contextlib.suppress(httpx.TimeoutException):
        await http.post(f"{node.url}/v1/completions", json={**PLAIN, "max_tokens": 2_000}, timeout=0.2)


async def forwarded(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{node.url}/version")
    assert answer.status_code < 500


async def rejected(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    for body in (b"no JSON", b"[]", b'{"model": 1}', b'{"model": "none", "stream": true, "prompt": "x"}'):
        answer = await http.post(f"{node.url}/v1/completions", content=body)
        assert 400 <= answer.status_code < 500


async def rejected_by_the_engine(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{node.url}/v1/completions", json={**PLAIN, "stream": True, "prompt": "x " * 30_000})
    assert answer.status_code == 400, answer.text


async def resumed(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    other = next(other for other in fleet.nodes if other is not node)
    body = {**PLAIN, "stream": True, "max_tokens": 60}
    async with http.stream("POST", f"{node.url}/v1/completions", json=body) as answer:
        stream = answer.headers["x-synkti-stream"]
        async for _ in answer.aiter_raw():
            break
    answer = await http.get(f"{other.url}/v1/streams/{stream}")
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def resumed_under_its_client(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    """Resume a stream whose first connection is still open and gets an error."""
    body = {**PLAIN, "stream": True, "max_tokens": 100}
    async with http.stream("POST", f"{node.url}/v1/completions", json=body) as first:
        stream = first.headers["x-synkti-stream"]
        answer = await http.get(f"{node.url}/v1/streams/{stream}")
        assert answer.content.endswith(b"data: [DONE]\n\n")
        await first.aread()


async def of_an_unknown_stream(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    assert (await http.get(f"{node.url}/v1/streams/{'0' * 24}")).status_code == 404


async def engine_killed(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    """Kill the engine of a stream."""
    body = {**PLAIN, "stream": True, "max_tokens": 200}
    async with http.stream("POST", f"{node.url}/v1/completions", json=body) as answer:
        server = fleet.by_id(answer.headers["x-synkti-node"])
        server.kill_engine()
        assert (await answer.aread()).endswith(b"data: [DONE]\n\n")
    await eventually("its engine is back", partial(fleet.ready, server), within_s=30.0)


async def unread_stream(fleet: LocalFleet, node: LocalNode, http: httpx.AsyncClient) -> None:
    """Request a stream, read nothing, and disconnect."""
    reader, writer = await asyncio.open_connection(node.host, 8000)
    body = b'{"model":"m","prompt":"x","stream":true,"max_tokens":300,"ignore_eos":true}'
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    await reader.readline()
    writer.transport.abort()


REQUESTS: tuple[SendRequest, ...] = (
    streamed, partial(streamed, n=2, logprobs=True, temperature=0.7), event_stream, aborted, aborted_at_once, whole,
    whole_aborted, forwarded, rejected, rejected_by_the_engine, resumed, resumed_under_its_client, of_an_unknown_stream,
    engine_killed, unread_stream,
)  # fmt: skip


def test_no_object_of_a_request_outlives_it(tmp_path: Path) -> None:
    async def scenario(fleet: LocalFleet) -> None:
        left: list[str] = []
        with collector_off():
            for send in REQUESTS:
                for node in fleet.nodes:
                    async with httpx.AsyncClient(timeout=30) as http:
                        await send(fleet, node, http)
                left += await not_freed(getattr(send, "__name__", "choices"))
        assert not left

    run_scenario(tmp_path, scenario)


def large_values(least: int) -> dict[int, int]:
    """Return the sizes of all bytes and texts of at least `least`, by their ids."""
    values = (value for each in gc.get_objects() for value in gc.get_referents(each))
    return {
        id(value): len(value) for value in values if isinstance(value, (bytes, bytearray, str)) and len(value) >= least
    }


def test_an_open_stream_holds_its_request_twice_and_no_objects_of_it(tmp_path: Path) -> None:
    """One copy is for another engine, one is in the header of its journal."""
    size = 2_000_000

    async def scenario(fleet: LocalFleet) -> None:
        reader, writer = await asyncio.open_connection(fleet.nodes[0].host, 8000)
        items = b",".join([b"{}"] * 50_000)
        body = b'{"model":"m","prompt":"x","stream":true,"max_tokens":3000,"x":[%b],"user":"%b"}' % (items, b"u" * size)
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        known, objects = large_values(size), len(gc.get_objects())
        writer.write(head % len(body) + body)
        del body
        while not (await reader.readline()).startswith(b"data: "):
            assert not reader.at_eof()
        held = [length for value, length in large_values(size).items() if value not in known]
        assert len(held) <= 2
        assert sum(held) < 2.2 * size
        assert len(gc.get_objects()) - objects < 20_000
        writer.transport.abort()

    run_scenario(tmp_path, scenario, size=1)
