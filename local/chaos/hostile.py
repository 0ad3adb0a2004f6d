"""Attacks a node as hostile clients do, for a few seconds: no other client may be affected.

They have a key, where the fleet needs one: without it they would get no further than the head of a request.

All of it is bounded, goes to nodes of this run only, and ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence

import orjson

from local.chaos.fleet import ChaosFleet
from local.emulated_instance import EmulatedInstance
from local.engines import MODEL
from node_agent.contract.names import FRONT_DOOR_PORT, PEER_DOOR_PORT

_DURATION_S = 4.0
_STALLED_READERS = 40
_FLOOD_CONNECTIONS = 150
_HALF_SENT_BODIES = 60
_HALF_BODY_BYTES = 64 * 1024
_DATAGRAMS = 4_000
_DATAGRAMS_AT_ONCE = 50
_RECEIVE_BUFFER_BYTES = 4_096
_CONNECT_TIMEOUT_S = 5.0


def _head(fleet: ChaosFleet, method: str, path: str, framing: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: chaos", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in fleet.protection.headers.items()]
    return "\r\n".join([*lines, *([framing] if framing else []), "", ""]).encode()


def _get(fleet: ChaosFleet, path: str) -> bytes:
    return _head(fleet, "GET", path)


def _post(fleet: ChaosFleet, path: str, body: bytes, length: int | None = None) -> bytes:
    return _head(fleet, "POST", path, f"content-length: {len(body) if length is None else length}") + body


def _stream_request(fleet: ChaosFleet) -> bytes:
    body = orjson.dumps({"model": MODEL, "prompt": "never read", "max_tokens": 300, "stream": True})
    return _post(fleet, "/v1/completions", body)


def _floods(fleet: ChaosFleet) -> tuple[bytes, ...]:
    chunked = _head(fleet, "POST", "/v1/completions", "transfer-encoding: chunked")
    return (
        _get(fleet, "/v1/models") * 12,
        _get(fleet, "/v1/synkti/nodes") * 12,
        _post(fleet, "/v1/chat/completions", b'{"model":"' + b"x" * 200_000 + b'"}'),
        _post(fleet, "/v1/chat/completions", b"[" * 100_000),
        _post(fleet, "/v1/completions", b'{"a":[' + b"[]," * 50_000 + b"[]]}"),
        chunked + b"2\r\n{}\r\n0\r\n" + b"a: v\r\n" * 20_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / RTSP/1.0\r\n\r\n",
    )


async def stalled_readers(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Request streams and read nothing of them."""
    async with _connections(instances[0].host, FRONT_DOOR_PORT, _STALLED_READERS) as connections:
        for connection in connections:
            await _send(connection, _stream_request(fleet))
        await asyncio.sleep(_DURATION_S)


async def flood(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Open many connections to both APIs, send expensive requests, and read no answers."""
    host, floods = instances[0].host, _floods(fleet)
    async with (
        _connections(host, FRONT_DOOR_PORT, _FLOOD_CONNECTIONS) as clients,
        _connections(host, PEER_DOOR_PORT, _FLOOD_CONNECTIONS) as strangers,
    ):
        for number, connection in enumerate((*clients, *strangers)):
            await _send(connection, floods[number % len(floods)])
        await asyncio.sleep(_DURATION_S)


async def half_sent_bodies(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Send requests whose bodies stop in the middle."""
    half = _post(fleet, "/v1/chat/completions", b"x" * _HALF_BODY_BYTES, 2 * _HALF_BODY_BYTES)
    async with _connections(instances[0].host, FRONT_DOOR_PORT, _HALF_SENT_BODIES) as connections:
        for connection in connections:
            await _send(connection, half)
        await asyncio.sleep(_DURATION_S)


async def foreign_datagrams(fleet: ChaosFleet, instances: Sequence[EmulatedInstance]) -> None:
    """Send random bytes to the address of membership messages."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        for number in range(_DATAGRAMS):
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                stranger.sendto(os.urandom(1 + number % 1_400), (instances[0].host, PEER_DOOR_PORT))
            if number % _DATAGRAMS_AT_ONCE == 0:
                await asyncio.sleep(_DURATION_S * _DATAGRAMS_AT_ONCE / _DATAGRAMS)


@contextlib.asynccontextmanager
async def _connections(host: str, port: int, number: int) -> AsyncIterator[list[socket.socket]]:
    """Open up to `number` connections; their receive buffers are small, so that a node soon sees a full one."""
    connections: list[socket.socket] = []
    try:
        for _ in range(number):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            connection.setblocking(False)
            connections.append(connection)
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_connect(connection, (host, port))
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def _send(connection: socket.socket, data: bytes) -> None:
    """Send as much as the node accepts in time; it may close the connection instead."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_sendall(connection, data)
