"""The gate in front of the embedded AWS: one service away, in each of its ways, and all others as they were."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from local.aws_fault_proxy import AwsFaultProxy, Outage
from node_agent.adapters.http_server import HttpServer
from node_agent.ports import ServerRequest

_DEADLINE_S = 20.0


def signed(service: str) -> dict[str, str]:
    return {"authorization": f"AWS4-HMAC-SHA256 Credential=AKIA/20261129/us-east-1/{service}/aws4_request, Signature=0"}


@asynccontextmanager
async def gate() -> AsyncIterator[tuple[AwsFaultProxy, httpx.AsyncClient]]:
    async def aws(request: ServerRequest) -> None:
        request.respond(200, b"well: " + request.target.encode() + request.body, b"text/xml", [(b"x-amz-id-2", b"7")])

    server = HttpServer(aws)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    await server.start(listener)
    made = AwsFaultProxy(f"http://127.0.0.1:{listener.getsockname()[1]}")
    await made.start()
    async with httpx.AsyncClient(base_url=made.url, timeout=_DEADLINE_S) as http:
        yield made, http
    await made.close()
    server.abort()


def in_loop(story: Callable[[AwsFaultProxy, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with gate() as (made, http):
            await story(made, http)

    asyncio.run(run())


def test_requests_of_a_working_service_are_passed_on() -> None:
    async def story(made: AwsFaultProxy, http: httpx.AsyncClient) -> None:
        answer = await http.post("/bucket?x=1", content=b"body", headers=signed("s3"))
        assert (answer.status_code, answer.content) == (200, b"well: /bucket?x=1body")
        assert answer.headers["x-amz-id-2"] == "7"

    in_loop(story)


@pytest.mark.parametrize(
    ("outage", "status"),
    [(Outage.ERROR, 500), (Outage.THROTTLED, 503), (Outage.DENIED, 403), (Outage.GARBAGE, 200)],
)
def test_one_service_is_away_and_no_other(outage: Outage, status: int) -> None:
    async def story(made: AwsFaultProxy, http: httpx.AsyncClient) -> None:
        made.start_outage("ec2", outage)
        away = await http.post("/", headers=signed("ec2"))
        assert (away.status_code, away.content.startswith(b"well")) == (status, False)
        assert (await http.post("/", headers=signed("s3"))).content.startswith(b"well")
        made.end_outage("ec2")
        assert (await http.post("/", headers=signed("ec2"))).content.startswith(b"well")
        assert made.failed_requests == 1

    in_loop(story)


def test_a_silent_service_answers_once_it_is_back() -> None:
    async def story(made: AwsFaultProxy, http: httpx.AsyncClient) -> None:
        made.start_outage("ec2", Outage.SILENCE)
        request = asyncio.ensure_future(http.post("/", headers=signed("ec2")))
        async with asyncio.timeout(_DEADLINE_S):
            while not made.failed_requests:  # noqa: ASYNC110 # the gate has no event for it
                await asyncio.sleep(0)
        assert not request.done()
        made.end_outage("ec2")
        assert (await request).status_code == 200

    in_loop(story)


def test_a_service_stays_silent_when_the_outage_of_another_ends() -> None:
    async def story(made: AwsFaultProxy, http: httpx.AsyncClient) -> None:
        made.start_outage("ec2", Outage.SILENCE)
        made.start_outage("s3", Outage.SILENCE)
        waiting = asyncio.ensure_future(http.post("/", headers=signed("ec2")))
        async with asyncio.timeout(_DEADLINE_S):
            while not made.failed_requests:  # noqa: ASYNC110 # the proxy has no event for it
                await asyncio.sleep(0)
        made.end_outage("s3")
        assert (await http.post("/", headers=signed("s3"))).status_code == 200
        assert not waiting.done()
        made.end_outage("ec2")
        assert (await waiting).status_code == 200

    in_loop(story)
