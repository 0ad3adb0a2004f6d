"""Requests to a peer and their answers: signed both ways, in the peer's time. Real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from node_agent.adapters.http import HttpClient
from node_agent.adapters.http_server import HttpServer, bind
from node_agent.core.common.address import Address
from node_agent.core.common.cluster_keys import ClusterKey, cluster_key
from node_agent.core.common.request_auth import (
    AUTH_HEADER,
    CLOCK_HEADER,
    Refusal,
    RequestVerifier,
    Verified,
    request_content,
)
from node_agent.core.failure.loss import LossReason
from node_agent.core.node.peer_clocks import PeerClocks
from node_agent.core.node.request_signer import PeerName, RequestSigner
from node_agent.ports import ExchangeLost, Response, ServerRequest
from node_agent.runtime.peer_api.signed_answer import SignedRequestProxy
from node_agent.runtime.peer_api.signed_client import SignedClient

KEY = cluster_key(b"cluster key")


class Peer:
    """A peer API. ahead_s: of its clock; honest: whether it sends its time; answer: how it answers a verified request.

    accepts: "accepted", or the reason, of each request.
    """

    def __init__(self, ahead_s: float = 0.0, honest: bool = True) -> None:
        self.ahead_s = ahead_s
        self.honest = honest
        self.verifier = RequestVerifier("i-peer", "d1", lambda *_: KEY)
        self.accepts: list[str] = []
        self.answer: Callable[[ServerRequest, Verified], None] = echo

    async def __call__(self, request: ServerRequest) -> None:
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.items())
        content = request_content(request.method, request.target, headers, request.body)
        stamp = request.headers.get(AUTH_HEADER.encode(), b"").decode()
        result = self.verifier.verify(stamp, content, time.time() + self.ahead_s)
        if isinstance(result, Verified):
            self.accepts.append("accepted")
            self.answer(request, result)
            return
        self.accepts.append(result.reason.value)
        more = [(CLOCK_HEADER, result.clock.encode())] if result.clock is not None and self.honest else []
        request.respond(401, b"", more=more)


def echo(request: ServerRequest, verified: Verified) -> None:
    SignedRequestProxy(request, verified).respond(200, request.body, b"text/plain", [(b"x-synkti-load", b"1")])


Request = Callable[..., Awaitable[Response]]


def run_scenario(
    peer: Peer, scenario: Callable[[Request], Awaitable[None]], key: ClusterKey | Refusal = KEY, run: str | None = "d1"
) -> None:
    async def run_all() -> None:
        listener = bind("127.0.0.1", 0, "peer door")
        address = Address("127.0.0.1", listener.getsockname()[1])
        server, plain = HttpServer(peer), HttpClient()
        await server.start(listener)
        signer = RequestSigner("i-own", lambda _: key, lambda _: PeerName("i-peer", run), PeerClocks())
        client = SignedClient(plain, signer, time.time)

        async def request(body: str, **headers: str) -> Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.open(address, "POST", "/x", headers=named, body=body.encode(), read_timeout_s=5)

        async with asyncio.timeout(10):
            await scenario(request)
        await server.close(0.1)
        await plain.close()

    asyncio.run(run_all())


async def status(request: Request, body: str) -> int:
    response = await request(body, x_synkti_suspect="1")
    answer = await response.read_all(1000)
    assert response.status == 401 or answer == body.encode()
    response.close()
    return response.status


@pytest.mark.parametrize("ahead_s", [60.0, -45.0, 7200.0])
def test_the_caller_gets_no_refusal_and_later_requests_get_none(ahead_s: float) -> None:
    peer = Peer(ahead_s)

    async def scenario(request: Request) -> None:
        assert [await status(request, f"n{number}") for number in range(3)] == [200, 200, 200]

    run_scenario(peer, scenario)
    assert peer.accepts == [Refusal.WRONG_TIME.value, "accepted", "accepted", "accepted"]


def test_a_member_whose_clock_agrees_costs_one_request_and_an_unknown_boot_id_one_more() -> None:
    for run, accepts in (("d1", ["accepted"]), (None, [Refusal.OTHER_RUN.value, "accepted", "accepted"][:2])):
        peer = Peer(5.0)

        async def scenario(request: Request) -> None:
            assert await status(request, "n") == 200

        run_scenario(peer, scenario, run=run)
        assert peer.accepts == accepts


def test_a_clock_that_jumps_both_ways_is_measured_again_each_time() -> None:
    peer = Peer(0.0)

    async def scenario(request: Request) -> None:
        for number, ahead_s in enumerate((60.0, -45.0, 0.0, 40.0)):
            peer.ahead_s = ahead_s
            assert await status(request, f"n{number}") == 200

    run_scenario(peer, scenario)
    assert peer.accepts.count(Refusal.WRONG_TIME.value) == 4


def test_a_peer_that_does_not_send_its_time_refuses_once_a_request() -> None:
    peer = Peer(60.0, honest=False)

    async def scenario(request: Request) -> None:
        assert await status(request, "n") == 401

    run_scenario(peer, scenario)
    assert peer.accepts == [Refusal.WRONG_TIME.value]


def test_nothing_is_sent_to_a_node_that_shares_no_key() -> None:
    peer = Peer()

    async def scenario(request: Request) -> None:
        with pytest.raises(ExchangeLost) as lost:
            await request("n")
        assert lost.value.loss is LossReason.NOT_A_PEER

    run_scenario(peer, scenario, key=Refusal.UNKNOWN_NODE)
    assert peer.accepts == []


def another_body(request: ServerRequest, verified: Verified) -> None:
    class Changed:
        def respond(self, code: int, body: bytes, *rest: object) -> None:
            request.respond(code, b"another body", *rest)  # type: ignore[arg-type]

    SignedRequestProxy(Changed(), verified).respond(200, request.body)  # type: ignore[arg-type]


def another_header(request: ServerRequest, verified: Verified) -> None:
    request.add_headers([(b"x-synkti-engine", b"1")])
    echo(request, verified)


@pytest.mark.parametrize(
    "answer",
    [
        another_body,
        another_header,
        lambda request, _: request.respond(200, request.body),
        lambda request, _: request.respond(404, b'{"expired": true}'),
        lambda request, _: request.begin(200, b"text/event-stream"),
    ],
)
def test_an_answer_that_the_peer_did_not_sign_is_lost(answer: Callable[[ServerRequest, Verified], None]) -> None:
    peer = Peer()
    peer.answer = answer

    async def scenario(request: Request) -> None:
        with pytest.raises(ExchangeLost) as lost:
            await (await request("n")).read_all(1000)
        assert lost.value.loss is LossReason.BROKEN

    run_scenario(peer, scenario)


def test_a_refusal_before_the_signature_is_read_has_no_headers_that_count() -> None:
    peer = Peer()
    headers = [(b"x-synkti-engine", b"1"), (b"x-synkti-lost", b"engine-died 1"), (b"retry-after", b"3")]
    peer.answer = lambda request, _: request.respond(503, b"an error of an engine", more=headers)

    async def scenario(request: Request) -> None:
        response = await request("n")
        assert (response.status, dict(response.headers)) == (503, {b"retry-after": b"3"})
        assert await response.read_all(1000) == b"{}"
        response.close()

    run_scenario(peer, scenario)


def test_a_stream_has_a_signed_head_and_its_parts_as_they_come() -> None:
    peer = Peer()

    def stream(request: ServerRequest, verified: Verified) -> None:
        signed = SignedRequestProxy(request, verified)
        signed.accept([(b"x-synkti-signs", b"1")])
        signed.add_headers([(b"x-synkti-node", b"i-peer")])
        signed.begin(200, b"text/event-stream", [(b"x-synkti-engine", b"1")])
        signed.write(b"data: one\n\n")
        signed.end(b"data: two\n\n")

    peer.answer = stream

    async def scenario(request: Request) -> None:
        response = await request("n")
        parts: list[bytes] = []
        await response.pipe(parts.append)
        assert b"".join(parts) == b"data: one\n\ndata: two\n\n"
        assert response.is_event_stream
        assert response.headers[b"x-synkti-engine"] == b"1"
        response.close()

    run_scenario(peer, scenario)
