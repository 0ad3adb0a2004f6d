"""Requests that their heads decide to refuse: answered before their bodies, of which nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from node_agent.ports import ServerRequest
from tests.unit.adapters.door_stage import LIMITS, ROOMY, Client, echo, post, run_scenario, until

LARGE = 2 * 1024 * 1024
HEAD = f"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n".encode()


class NoKey:
    """Refuses what has no x-key."""

    async def refuse(self, request: ServerRequest) -> None:
        assert request.body == b""
        request.respond(401, b"no key")

    def is_refused(self, method: str, target: str, headers: Mapping[bytes, bytes]) -> bool:
        return b"x-key" not in headers


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"\r\n",
        HEAD + b"\r\nthe beginning of a body",
        HEAD + b"expect: 100-continue\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        f"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: {10**15}\r\n\r\n".encode(),
    ],
)
def test_the_answer_comes_before_the_body_and_ends_the_connection(head: bytes) -> None:
    async def story(client: Client) -> None:
        status, headers, body = await client.request(head)
        assert (status, headers["connection"], body) == (401, "close", b"no key")
        assert client.server.bodies.held_bytes == 0

    run_scenario(echo, story, ROOMY, NoKey())


def test_what_the_client_still_sends_is_dropped_for_a_bounded_time() -> None:
    async def story(client: Client) -> None:
        client.writer.write(HEAD + b"\r\n")
        for _ in range(LARGE // 65_536):  # all of it, although it is answered: the answer can be read behind it
            client.writer.write(bytes(65_536))
            await client.writer.drain()
            assert client.server.bodies.held_bytes == 0
        assert (await client.answer())[0] == 401
        assert await client.is_closed()
        await until(lambda: not client.server.connections)

    run_scenario(echo, story, ROOMY, NoKey())


def test_a_refused_request_is_answered_in_its_turn_and_is_the_last_one() -> None:
    release = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        await release.wait()
        await echo(request)

    async def story(client: Client) -> None:
        client.writer.write(
            post("first", more="x-key: 1\r\n") + post("refused") + post("never read", more="x-key: 1\r\n")
        )
        await client.writer.drain()
        await until(lambda: client.server.busy == 1)
        release.set()
        assert (await client.answer())[2] == b"POST /a b first"
        assert (await client.answer())[0] == 401
        assert await client.is_closed()

    run_scenario(slow, story, LIMITS, NoKey())


def test_with_a_key_or_without_a_body_nothing_changes() -> None:
    async def story(client: Client) -> None:
        assert (await client.request(post("body", more="x-key: 1\r\n")))[2] == b"POST /a b body"
        assert (await client.request(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"))[2] == b"GET /x "  # its handler decides
        assert (await client.request(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"))[2] == b"POST /x "

    run_scenario(echo, story, replace(LIMITS, idle_s=60.0), NoKey())
