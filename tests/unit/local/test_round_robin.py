"""The balancer without Synkti that `make run` compares with: turns, and a cut stream is its client's error."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from local.demo.round_robin import RoundRobin

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def _engine(name: bytes, *, ends: bool) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"1\r\n" + name + b"\r\n" + (b"0\r\n\r\n" if ends else b""))
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def test_connections_take_turns_and_a_lost_engine_breaks_its_stream() -> None:
    async def run() -> None:
        engines = [await _engine(b"a", ends=True), await _engine(b"b", ends=False)]
        addresses = [engine.sockets[0].getsockname()[:2] for engine in engines]
        async with RoundRobin(addresses) as balancer:
            for expected in ("a", None, "a"):
                async with httpx.AsyncClient() as client:
                    if expected is None:
                        with pytest.raises(httpx.RemoteProtocolError):
                            await client.get(balancer.url)
                    else:
                        assert (await client.get(balancer.url)).text == expected
        for engine in engines:
            engine.close()

    asyncio.run(run())


def test_no_engine_is_a_closed_connection() -> None:
    async def run() -> None:
        async with RoundRobin([("127.0.0.1", 9)]) as balancer, httpx.AsyncClient() as client:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await client.get(balancer.url)

    asyncio.run(run())
