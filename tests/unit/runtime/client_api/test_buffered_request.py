"""Requests that are not continued, at scripted engines: retried, passed on, and never ended in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from node_agent.contract.errors import FleetFull, NoReadyPeer, RequestRejected
from node_agent.core.failure.loss import EngineDeath, Loss, LossReason, UnknownLoss
from node_agent.core.openai import sse
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.state import LOST_EVENT
from node_agent.ports import ExchangeLost
from node_agent.runtime.client_api.buffered_request import BufferedRequest, BufferedRequests
from node_agent.runtime.engine.client import ENGINE_HEADER
from node_agent.runtime.engine.keepalive import KEEPALIVE, OVERTAKEN
from node_agent.testing.fake_requests import MemoryRequest
from tests.unit.runtime.a_node import make_node

REQUEST = BufferedRequest("POST", "/v1/responses", {}, b"{}", RouteRequest("m"))
TOKEN = b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n'
LAST = b"event: response.completed\ndata: {}\n\n"


class Stream:
    """An event stream in these parts; then its end, or its loss."""

    status, is_event_stream = 200, True
    headers: dict[bytes, bytes] = {}  # noqa: RUF012 # never changed

    def __init__(self, *parts: bytes, then: Loss | None = None) -> None:
        self._parts = list(parts)
        self._then = then

    async def head(self) -> None:
        """It has come."""

    async def read(self) -> bytes:
        if self._parts:
            return self._parts.pop(0)
        if self._then is not None:
            raise ExchangeLost(self._then)
        return b""

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        while data := await self.read():
            sink(data)

    def pause(self, paused: bool) -> None:
        """Nobody is slow here."""

    def abort(self, loss: Loss) -> None:
        """Nobody goes away here."""

    def close(self) -> None:
        """Nothing to close."""


def send(*answers: Stream) -> tuple[MemoryRequest, list[str]]:
    """Return the client's request and the nodes that were requested, one for each answer."""
    client, nodes = MemoryRequest(), list[str]()
    left = list(answers)

    class Engines:
        def request(self, node: Any, *_: object, **__: object) -> Stream:
            nodes.append(node.instance_id)
            return left.pop(0)

        async def acquire_turn(self, node: Any) -> None:
            """Nobody has to wait here."""

    async def story() -> None:
        node = make_node(2)
        engines: Any = Engines()
        async with asyncio.timeout(5):
            await BufferedRequests(node, engines).answer(REQUEST, Route(node.status(), "prefix"), client)

    asyncio.run(story())
    return client, nodes


def error_in(client: MemoryRequest) -> dict[str, Any] | None:
    """The error that the stream ended with."""
    assert client.is_ended
    _, payload = sse.SseParser().feed(client.answer)[-1]
    found: dict[str, Any] | None = orjson.loads(payload).get("error")
    return found


def test_a_stream_of_another_route_is_passed_on_unchanged() -> None:
    client, nodes = send(Stream(TOKEN, TOKEN, LAST))
    assert client.answer == TOKEN * 2 + LAST
    assert nodes == ["i-0"]


@pytest.mark.parametrize("sign", [KEEPALIVE, OVERTAKEN])
def test_a_peers_signs_of_life_are_not_for_the_client(sign: bytes) -> None:
    client, nodes = send(Stream(sign, sign * 2, TOKEN, sign, sign + TOKEN, LAST))
    assert client.answer == TOKEN * 2 + LAST
    assert nodes == ["i-0"]
    client, nodes = send(Stream(sign), Stream(TOKEN, LAST))
    assert (client.answer, len(nodes)) == (TOKEN + LAST, 2)


@pytest.mark.parametrize(
    ("parts", "then", "why"),
    [
        ([TOKEN, TOKEN], None, "eof"),
        ([TOKEN, TOKEN[:20]], None, "eof"),
        ([TOKEN], LossReason.RESET, "reset"),
        ([TOKEN], UnknownLoss("from a later version"), "other"),
        ([TOKEN, b"\n\n" + sse.named_event(LOST_EVENT, b"silence")], None, "silence"),
    ],
    ids=["a clean end", "half an event", "a reset", "an unknown reason", "a peer's word"],
)
def test_a_stream_lost_midway_ends_with_an_explicit_error(parts: Sequence[bytes], then: Loss | None, why: str) -> None:
    client, nodes = send(Stream(*parts, then=then))
    error = error_in(client)
    assert error is not None
    assert (error["code"], nodes) == ("engine_lost", ["i-0"])
    assert f"({why})" in error["message"]
    assert LOST_EVENT not in client.answer


@pytest.mark.parametrize(
    "lost",
    [Stream(), Stream(then=LossReason.EOF), Stream(b"\n\n" + sse.named_event(LOST_EVENT, b"reset"))],
    ids=["empty", "eof", "word"],
)
def test_a_stream_lost_before_its_first_byte_is_sent_to_another_node(lost: Stream) -> None:
    client, nodes = send(lost, Stream(TOKEN, LAST))
    assert client.answer == TOKEN + LAST
    assert len(set(nodes)) == 2


def test_after_the_last_engine_the_client_gets_an_error_with_the_reasons() -> None:
    with pytest.raises(NoReadyPeer, match="lost by 3 nodes"):
        send(*(Stream() for _ in range(3)))


# whose fault it is


class Answered(Stream):
    """An answer in one piece. marked: as the peer API marks its engine's."""

    is_event_stream = False

    def __init__(self, status: int, body: bytes, *, marked: bool = True) -> None:
        super().__init__(body)
        self.status = status
        self.headers = {ENGINE_HEADER: b"1"} if marked else {}

    async def read_all(self, max_bytes: int) -> bytes:
        return await self.read()


class Died(Stream):
    async def head(self) -> None:
        raise ExchangeLost(EngineDeath(LossReason.ENGINE_DIED, "2", alone=True), passed_on=True)


ERROR = b'{"error":{"message":"it","type":"InternalServerError","param":null,"code":500}}'
GOOD = b'{"choices":[]}'


@pytest.mark.parametrize("status", [401, 404, 413, 429, 500, 503])
def test_a_peer_doors_own_status_is_never_the_clients(status: int) -> None:
    refused = Answered(status, b'{"error":{"message":"not a peer","code":"not_a_peer"}}', marked=False)
    client, nodes = send(Stream(then=LossReason.RESET), refused, Answered(200, GOOD))
    assert (client.status, client.answer, len(nodes)) == (200, GOOD, 3)


def test_an_error_of_the_request_gets_one_more_engine_and_is_then_final() -> None:
    client, nodes = send(Answered(500, ERROR), Answered(500, ERROR))
    assert (client.status, client.answer, len(nodes)) == (500, ERROR, 2)
    assert client.response_headers[b"x-should-retry"] == b"false"


@pytest.mark.parametrize("status", [307, 400, 404, 422])
def test_a_refusal_is_passed_on_at_once(status: int) -> None:
    client, nodes = send(Answered(status, b'{"detail":"no"}'))
    assert (client.status, client.answer, len(nodes)) == (status, b'{"detail":"no"}', 1)
    assert b"x-should-retry" not in client.response_headers


def test_an_error_without_a_message_gets_openais_form() -> None:
    client, _ = send(Answered(500, b""), Answered(500, b"Internal Server Error"))
    assert (client.status, orjson.loads(client.answer)["error"]["code"]) == (500, "engine_error")


def test_engines_without_room_are_a_429() -> None:
    with pytest.raises(FleetFull):
        send(*[Answered(429, b'{"error":{"message":"busy"}}') for _ in range(3)])


def test_a_request_that_ends_two_engines_ends_no_third() -> None:
    with pytest.raises(RequestRejected, match="Several engines ended") as refused:
        send(Died(), Died(), Answered(200, GOOD))
    assert (refused.value.status, refused.value.code) == (422, "request_kills_engines")
