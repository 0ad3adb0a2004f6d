"""A request to a peer whose clock is another: one refusal, then it is signed in the peer's time. Real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.core.common.address import Address
from node_agent.core.common.request_auth import AUTH_HEADER, CLOCK_ERRORS, CLOCK_HEADER, RequestVerifier, sign
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.ports import ServerRequest
from node_agent.runtime.peer_api.signed_client import SignedClient

KEY = b"cluster key"


class Peer:
    """A peer's door. ahead_s: of its clock; honest: whether it sends its time."""

    def __init__(self, ahead_s: float, honest: bool = True) -> None:
        self.ahead_s = ahead_s
        self.honest = honest
        self.doorkeeper = RequestVerifier(KEY, audience="d1")
        self.answers: list[str] = []

    async def __call__(self, request: ServerRequest) -> None:
        stamp, now = request.headers.get(AUTH_HEADER.encode(), b"").decode(), time.time() + self.ahead_s
        why = self.doorkeeper.rejection_reason(stamp, request.method, request.target, request.body, now)
        self.answers.append(why or "welcome")
        if why is None:
            request.respond(200, request.body)
        elif why in CLOCK_ERRORS and self.honest:
            request.respond(401, b"", more=[(CLOCK_HEADER, self.doorkeeper.signed_clock(stamp, now).encode())])
        else:
            request.respond(401, why.encode())


def run_scenario(
    peer: Peer, story: Callable[[Callable[[str], Coroutine[Any, Any, int]]], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        listener = bind("127.0.0.1", 0, "peer door")
        address = Address("127.0.0.1", listener.getsockname()[1])
        server, plain = HttpServer(peer), HttpClient()
        await server.start(listener)
        client = SignedClient(plain, PeerClocks(KEY), time.time)

        async def request(body: str) -> int:
            """As the node's tasks do it: signed by the node's own clock."""
            stamp = sign(KEY, "POST", "/x", body.encode(), time.time(), body)
            exchange = await client.open(
                address, "POST", "/x", headers={AUTH_HEADER: stamp}, body=body.encode(), read_timeout_s=5
            )
            answer = await exchange.read_all(1000)
            assert exchange.status == 401 or answer == body.encode()
            exchange.close()
            return exchange.status

        async with asyncio.timeout(10):
            await story(request)
        await server.close(0.1)
        await plain.close()

    asyncio.run(run())


@pytest.mark.parametrize("ahead_s", [60.0, -45.0, 7200.0])
def test_the_caller_sees_no_refusal_and_later_requests_get_none(ahead_s: float) -> None:
    peer = Peer(ahead_s)

    async def story(request: Callable[[str], Coroutine[Any, Any, int]]) -> None:
        assert [await request(f"n{number}") for number in range(3)] == [200, 200, 200]

    run_scenario(peer, story)
    assert peer.answers == ["too old or too new", "welcome", "welcome", "welcome"]


def test_clocks_that_agree_cost_nothing() -> None:
    peer = Peer(5.0)

    async def story(request: Callable[[str], Coroutine[Any, Any, int]]) -> None:
        assert await request("n") == 200

    run_scenario(peer, story)
    assert peer.answers == ["welcome"]


def test_a_clock_that_jumps_both_ways_is_measured_again_each_time() -> None:
    peer = Peer(0.0)

    async def story(request: Callable[[str], Coroutine[Any, Any, int]]) -> None:
        for number, ahead_s in enumerate((60.0, -45.0, 0.0, 40.0)):
            peer.ahead_s = ahead_s
            assert await request(f"n{number}") == 200

    run_scenario(peer, story)
    assert peer.answers.count("too old or too new") == 4


def test_a_peer_that_does_not_send_its_time_refuses_once_a_request() -> None:
    peer = Peer(60.0, honest=False)

    async def story(request: Callable[[str], Coroutine[Any, Any, int]]) -> None:
        assert await request("n") == 401

    run_scenario(peer, story)
    assert peer.answers == ["too old or too new"]
