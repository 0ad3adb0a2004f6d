"""Test the bounds over all connections of a server: bodies, documents, connections, and how refusals are counted."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from node_agent.adapters import http_server_connection
from node_agent.core.http.body_budget import IDLE_S, SMALL_BYTES
from node_agent.core.http.document_bounds import DocumentBounds
from node_agent.ports import ServerRequest
from tests.unit.adapters.door_stage import LIMITS, ROOMY, Client, another, echo, in_pieces, post, run_scenario, until


def code_of(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


# bodies, all together


def test_an_idle_body_is_dropped_for_one_that_arrives() -> None:
    async def story(client: Client) -> None:
        raw = post("x" * 300_000)
        quiet = await another(client)
        quiet.writer.write(raw[:-10])
        bodies = client.server.bodies
        await until(lambda: bodies.held_bytes > 299_000)
        for held in bodies._bodies:
            held.last_read_at -= IDLE_S
        assert (await client.request(raw))[0] == 200
        status, headers, body = await quiet.answer()
        assert (status, headers["connection"], code_of(body)) == (503, "close", "too_many_bodies")
        assert bodies.held_bytes == 0

    run_scenario(echo, story, replace(ROOMY, bodies_bytes=400_000))


def test_a_body_without_room_is_refused_and_a_small_one_always_fits() -> None:
    may_answer = asyncio.Event()

    async def slow(request: ServerRequest) -> None:
        if len(request.body) > SMALL_BYTES:
            await may_answer.wait()
        request.respond(200, b"{}")

    async def story(client: Client) -> None:
        client.writer.write(post("x" * 300_000))
        await until(lambda: client.server.bodies.held_bytes == 300_000)
        other = await another(client)
        status, headers, body = await other.request(post("x" * 200_000), cut=200_000)
        assert (status, headers["retry-after"], code_of(body)) == (503, "1", "too_many_bodies")
        small = await another(client)
        assert (await small.request(post("x" * 50_000)))[0] == 200
        may_answer.set()
        assert (await client.answer())[0] == 200
        assert client.server.bodies.held_bytes == 0

    run_scenario(slow, story, replace(ROOMY, bodies_bytes=400_000))


@pytest.mark.parametrize("how", ["dropped", "refused", "answered"])
def test_the_memory_of_a_body_is_freed(how: str) -> None:
    async def story(client: Client) -> None:
        one = await another(client)
        raw = post("x" * 300_000)
        one.writer.write(raw[:-10])
        await until(lambda: client.server.bodies.held_bytes > 250_000)
        if how == "answered":
            one.writer.write(raw[-10:])
            await one.answer()
        elif how == "refused":
            for connection in list(client.server.connections):
                connection.check(client.server.now + ROOMY.request_s + 1)
        else:
            one.writer.transport.abort()
        await until(lambda: client.server.bodies.held_bytes == 0)

    run_scenario(echo, story, ROOMY)


# documents


def test_a_document_of_too_many_values_is_refused() -> None:
    read: list[int] = []

    async def counted(request: ServerRequest) -> None:
        read.append(len(request.body))
        request.respond(200, b"{}")

    async def story(client: Client) -> None:
        status, headers, body = await client.request(post("[" + "[]," * 60_000 + "[]]"), cut=1 << 20)
        assert (status, code_of(body), read) == (413, "document_too_large", [])
        assert "connection" not in headers
        text = json.dumps({"prompt": "[{,," * 60_000})
        assert (await client.request(post(text), cut=1 << 20))[0] == 200, "what is inside of a text costs nothing"
        form = "--x\r\n" + "[,{" * 60_000
        assert (await client.request(post(form, more="content-type: multipart/form-data; boundary=x\r\n"), 1 << 20))[
            0
        ] == 200

    run_scenario(
        counted, story, replace(ROOMY, document=DocumentBounds(values=50_000, containers=50_000, strings=50_000))
    )


# connections


def test_a_full_server_answers_only_health_requests() -> None:
    async def story(client: Client) -> None:
        await client.request(post("x"))
        for _ in range(LIMITS.connections - 1):
            await (await another(client)).request(post("x"))
        for path in ("/healthz", "/readyz?verbose"):
            status, headers, _ = await (await another(client)).request(
                f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
            )
            assert (status, headers["connection"]) == (200, "close")
        status, _, body = await (await another(client)).request(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (status, code_of(body)) == (503, "too_many_connections")
        silent = await another(client)
        await until(lambda: len(client.server.connections) == LIMITS.connections + 1)
        for connection in list(client.server.connections):
            connection.check(client.server.now + http_server_connection.HEALTH_TIMEOUT_S + 0.1)
        assert (await silent.answer())[0] == 503

    run_scenario(echo, story)


def test_an_address_has_its_own_bound_of_connections() -> None:
    async def story(client: Client) -> None:
        address = client.writer.get_extra_info("peername")
        await client.request(post("x"))
        await (await another(client)).request(post("x"))
        status, headers, body = await (await another(client)).request(post("x"))
        assert (status, code_of(body), headers["retry-after"]) == (429, "too_many_connections", "1")
        streams = await asyncio.open_connection(*address, local_addr=("127.0.0.9", 0))
        elsewhere = Client(client.server, *streams)
        client.others.append(elsewhere)
        assert (await elsewhere.request(post("x")))[0] == 200
        client.others[0].writer.close()
        await until(lambda: len(client.server.connections) == 2)
        assert (await (await another(client)).request(post("x")))[0] == 200, "an ended one makes room"

    run_scenario(echo, story, replace(LIMITS, connections=100, connections_per_address=2))


def test_reserved_connections_are_bounded_too() -> None:
    async def story(client: Client) -> None:
        await client.request(post("x"))
        for _ in range(LIMITS.connections - 1 + 2):
            await another(client)
        assert await (await another(client)).is_closed()

    run_scenario(echo, story, replace(LIMITS, reserved=2))


def test_refusals_are_counted() -> None:
    counted: list[str] = []

    async def story(client: Client) -> None:
        client.server._on_refused = counted.append
        await client.request(b"garbage\r\n\r\n")
        assert counted == ["invalid_http"]

    run_scenario(in_pieces, story)
