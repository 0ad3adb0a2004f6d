"""Test helpers for the HTTP server: handlers, a raw client, and a server for the length of a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from node_agent.adapters.http_limits import Limits
from node_agent.adapters.http_server import Handle, HeadCheck, HttpServer, bind
from node_agent.ports import ServerRequest

LIMITS = Limits(body_bytes=100, head_bytes=2_000, connections=4, pipelined=3, idle_s=60.0, stalled_s=5.0, request_s=9.0)
ROOMY = Limits(stalled_s=5.0, unread_s=30.0)


async def echo(request: ServerRequest) -> None:
    answer = f"{request.method} {request.path} {request.body.decode()}"
    request.respond(200, answer.encode(), b"text/plain", [(b"x-target", request.target.encode())])


async def in_pieces(request: ServerRequest) -> None:
    request.begin(200, b"text/plain")
    for piece in (b"one ", b"", b"two"):
        request.write(piece)
    request.end(b" three")


@dataclass
class Client:
    """A raw connection to the server."""

    server: HttpServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    others: list[Client] = field(default_factory=list)

    async def request(self, raw: bytes, cut: int = 10_000) -> tuple[int, dict[str, str], bytes]:
        """Send a request in cuts of so many bytes; status, headers and body of the answer."""
        for at in range(0, len(raw), cut):
            self.writer.write(raw[at : at + cut])
            await self.writer.drain()
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        status = int(head[0].split(" ")[1])
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        if "transfer-encoding" not in headers:
            return status, headers, b"" if status == 100 else await self.reader.read()
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return status, headers, body

    async def is_closed(self) -> bool:
        """Whether the server sends nothing more and ends the connection."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


Story = Callable[[Client], Coroutine[Any, Any, None]]


def run_scenario(handle: Handle, story: Story, limits: Limits = LIMITS, heads: HeadCheck | None = None) -> None:
    async def run() -> None:
        listener = bind("127.0.0.1", 0, "door")
        server = HttpServer(handle, limits, heads=heads)
        await server.start(listener)
        client = Client(server, *await asyncio.open_connection(*listener.getsockname()))
        try:
            async with asyncio.timeout(10):
                await story(client)
        finally:
            for one in (client, *client.others):
                one.writer.close()
                with contextlib.suppress(ConnectionError):
                    await one.writer.wait_closed()
            await server.close(0.1)

    asyncio.run(run())


async def another(client: Client) -> Client:
    address = client.writer.get_extra_info("peername")
    client.others.append(Client(client.server, *await asyncio.open_connection(*address)))
    return client.others[-1]


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110 # no event announces a count of the server
        await asyncio.sleep(0.001)


def post(body: str, path: str = "/a%20b?q=1", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {len(body)}\r\n\r\n{body}".encode()
