"""Test helpers for the HTTP client: a server of a few lines, and a client for the length of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from node_agent.adapters.http import HttpClient
from node_agent.core.common.address import Address
from node_agent.ports import Response

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Story = Callable[[HttpClient, Address], Coroutine[Any, Any, None]]

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def run_scenario(serve: Serve, story: Story) -> None:
    """A story of a client and a server; no wait in it may last."""

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        client = HttpClient()
        try:
            async with asyncio.timeout(10):
                await story(client, address)
        finally:
            await client.close()
            server.close()

    asyncio.run(run())


async def send(client: HttpClient, address: Address, read_timeout_s: float = 5.0) -> Response:
    return await client.open(address, "GET", "/", headers={}, read_timeout_s=read_timeout_s)


async def request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(*parts: bytes, then_close: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await request(reader)
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                if then_close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return serve
