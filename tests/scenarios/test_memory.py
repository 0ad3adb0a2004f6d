"""Tests that the objects of a connection are freed when it ends, with the garbage collector off.

What a request holds, of every kind of request: `test_object_lifetimes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httptools
import pytest

from node_agent.adapters.http_client_exchange import Exchange
from node_agent.adapters.http_message import MessageReader
from node_agent.adapters.http_request import Request
from node_agent.adapters.http_server_connection import ServerConnection
from node_agent.core.openai.generation_request import GenerationRequest
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.runtime.replication.replicated_stream import ReplicatedStream
from tests.scenarios.leaks import collector_off, count_instances
from tests.scenarios.local_fleet import MODEL, LocalNode, eventually, local_fleet

TIMES = 5
_JSON = "content-type: application/json\r\n"
REQUEST_CLASSES = (
    Request,
    ServerConnection,
    MessageReader,
    Exchange,
    GenerationRequest,
    ClientStream,
    ReplicatedStream,
    httptools.HttpRequestParser,
    httptools.HttpResponseParser,
)
STREAM = {"model": MODEL, "prompt": "x", "max_tokens": 12, "stream": True}
LONG = {**STREAM, "max_tokens": 3_000}


def post(path: str, body: dict[str, Any] | bytes, more: str = "connection: close\r\n") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{_JSON}{more}content-length: {len(raw)}\r\n\r\n".encode() + raw


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()


REQUESTS = {
    "a stream of completions": (post("/v1/completions", STREAM), None),
    "pipelined requests whose client disconnects": (post("/v1/completions", LONG, more="") * 3, 600),
    "half a body": (post("/v1/completions", b"x" * 500_000)[:-10], 0),
    "no HTTP": (b"garbage\r\n\r\n", None),
    "metrics": (get("/metrics"), None),
}


async def send(node: LocalNode, raw: bytes, read: int | None) -> None:
    """Send one request. read: how many bytes the client reads before it disconnects; None for all."""
    reader, writer = await asyncio.open_connection(node.host, 8000)
    writer.write(raw)
    await writer.drain()
    with contextlib.suppress(ConnectionError):
        await (reader.read() if read is None else reader.readexactly(read))
    writer.transport.abort()


def test_the_objects_of_a_connection_are_freed_when_it_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with local_fleet(tmp_path, size=1, seconds_per_token=0.002) as fleet:
            node = fleet.nodes[0]
            for name, (raw, read) in REQUESTS.items():
                await send(node, raw, read)  # creates what is created once
                with collector_off():

                    async def is_freed() -> bool:
                        return all(count < TIMES for count in count_instances(REQUEST_CLASSES).values())

                    for _ in range(TIMES):
                        await send(node, raw, read)
                    await eventually(f"{name}: nothing stays", is_freed, within_s=5.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["garbage", "half a head", "half a body"])
def test_the_objects_of_a_broken_connection_are_freed(how: str, tmp_path: Path) -> None:
    raws = {"garbage": b"garbage\r\n\r\n", "half a head": b"POST / HT", "half a body": post("/", b"x" * 90_000)[:-1]}

    async def scenario() -> None:
        async with local_fleet(tmp_path, size=1) as fleet:
            node = fleet.nodes[0]
            bodies = node.agent.parts.servers[0].bodies
            with collector_off():
                for _ in range(TIMES):
                    await send(node, raws[how], 0)

                async def is_freed() -> bool:
                    counts = count_instances(REQUEST_CLASSES)
                    return all(count < TIMES for count in counts.values()) and bodies.held_bytes == 0

                await eventually("nothing stays", is_freed, within_s=5.0)

    asyncio.run(scenario())
