"""The shell of a client stream against scripted engines: its ends, its bounds, and the errors that clients get."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson
import pytest

from local.lone_node import lone_node
from node_agent.core.failure.attempts import MAX_ENGINES
from node_agent.core.failure.loss import EngineDeath, Loss, LossReason
from node_agent.core.journal.epochs import Epoch
from node_agent.core.node.status import NodeStatus
from node_agent.core.openai import sse
from node_agent.core.openai.client_headers import StreamReader
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.ports import ExchangeLost, ReplicaLink, Response
from node_agent.runtime.client_api import client_stream
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.engine.client import ENGINE_HEADER
from node_agent.runtime.engine.keepalive import KEEPALIVE, OVERTAKEN
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.testing.fakes import MemoryRequest
from tests.borders.virtual_time import run_virtual
from tests.unit.runtime.a_node import status_of

BODY = {"model": "m", "stream": True, "temperature": 0, "messages": [{"role": "user", "content": "x"}]}
TOKEN = b'data: {"id":"e","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null,"token_ids":[7]}]}\n\n'
ROLE = b'data: {"id":"e","choices":[{"index":0,"delta":{"role":"assistant"}}],"prompt_token_ids":[1,2]}\n\n'


class Part:
    """A response of these parts, after which the exchange is lost, or waits until it is aborted."""

    headers: dict[bytes, bytes] = {}  # noqa: RUF012 # never changed
    first_read_at = last_read_at = 0.0
    reads = 0

    def __init__(
        self, *parts: bytes, then: Loss | None = LossReason.RESET, status: int = 200, stream: bool = True
    ) -> None:
        self._parts = list(parts)
        self._then = then
        self._aborted: asyncio.Future[Loss] = asyncio.get_running_loop().create_future()
        self.status = status
        self.is_event_stream = stream
        self.paused: list[bool] = []

    async def head(self) -> None:
        await asyncio.sleep(0)
        if self._aborted.done():
            raise ExchangeLost(self._aborted.result())

    async def read(self) -> bytes:
        raise AssertionError("nobody reads piece by piece here")

    async def read_all(self, max_bytes: int) -> bytes:
        return b"".join(self._parts)

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        for part in self._parts:
            sink(part)
        raise ExchangeLost(self._then if self._then is not None else await self._aborted)

    def pause(self, paused: bool) -> None:
        self.paused.append(paused)

    def set_read_timeout(self, seconds: float) -> None:
        """Nobody is silent here."""

    def end_within(self, seconds: float) -> None:
        """Its end is there."""

    def abort(self, loss: Loss) -> None:
        if not self._aborted.done():
            self._aborted.set_result(loss)

    def close(self) -> None:
        """Nothing to close."""


class Silent(Part):
    """It never answers."""

    async def head(self) -> None:
        raise ExchangeLost(await self._aborted)


class Engines:
    """Each engine in turn; `opened` has the nodes that got the request, `played` their responses."""

    def __init__(self, play: Callable[[], Part]) -> None:
        self._play = play
        self.opened: list[str] = []
        self.played: list[Part] = []
        self.requested = asyncio.Event()

    async def prefetch(self, node: NodeStatus, stream: str, source: str) -> None:
        """There are no contexts here."""

    async def acquire_turn(self, node: NodeStatus) -> None:
        """Nobody has to wait here."""

    def request(self, node: NodeStatus, *_: object, **__: object) -> Response:
        self.opened.append(node.instance_id)
        self.requested.set()
        self.played.append(self._play())
        return self.played[-1]


class NoLinks:
    def connect(self, *_: object) -> ReplicaLink:
        raise AssertionError("no copy was requested")


def make_node(peers: int, able: Sequence[int] = ()) -> NodeContext:
    """able: the numbers of those whose engines can resume."""
    statuses = [status_of(number) for number in range(1, peers + 1)]
    ways = [("resume",) if number in able else () for number in range(1, peers + 1)]
    members = [replace(status, continuation_methods=way) for status, way in zip(statuses, ways, strict=True)]
    return lone_node(status_of(0), members, lambda: 0.0)


def run(
    engines: Engines,
    peers: int,
    during: Callable[[ClientStream, MemoryRequest], None] | None = None,
    able: Sequence[int] = (),
    *,
    virtual: bool = False,
    **fields: object,
) -> tuple[int, bytes, int]:
    """The status, all bytes that were sent, and the status line that was sent (0 for none).

    virtual: whether time is.
    """
    client = MemoryRequest()

    async def story() -> int:
        node = make_node(peers, able)
        generation = read_generation(ApiRoute.CHAT, orjson.dumps({**BODY, **fields}))
        kept = ReplicationManager(node, NoLinks(), ReplicaStore()).open_stream(
            ReplicatedLog("s", Epoch(1, "i-0"), b"o"), None, durable=False
        )
        machine = ChunkStream(generation, "s")
        reply = SseResponse(client, "s", generation.route.value, StreamReader(wants_event_ids=True))
        stream = ClientStream(node, engines, machine, kept, reply, RouteRequest("m"))  # type: ignore[arg-type] # plays Engines
        running = asyncio.ensure_future(stream.run(Route(node.status(), "prefix")))
        if during is not None:
            await engines.requested.wait()
            await asyncio.sleep(0)
            during(stream, client)
        async with asyncio.timeout(3_600 if virtual else 5):
            return await running

    status = run_virtual(story, sockets=False) if virtual else asyncio.run(story())
    return status, client.answer, client.status


class Shown(Part):
    """It sends its parts four times a second, then signs of life, until it is aborted, or has sent so many."""

    def __init__(self, sign: bytes, *parts: bytes, count: int = 1_000_000, then: Sequence[bytes] = ()) -> None:
        super().__init__(*parts)
        self._sign = sign
        self._count = count
        self._rest = then

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        clock = asyncio.get_running_loop().time
        for data in itertools.chain(self._parts, itertools.repeat(self._sign, self._count), self._rest):
            await asyncio.wait({self._aborted}, timeout=0.25)
            if self._aborted.done():
                raise ExchangeLost(self._aborted.result())
            self.last_read_at = clock()
            sink(data)


MANY = [ROLE, *[TOKEN] * 8]
REST = (TOKEN.replace(b'"finish_reason":null', b'"finish_reason":"stop"'), b"data: [DONE]\n\n")


def test_a_node_that_sends_keepalives_is_waited_for() -> None:
    """Ten minutes in which a stream has no blocks, or a model takes its time: nothing of it reaches the client."""
    engines = Engines(lambda: Shown(KEEPALIVE, *MANY, count=2_400, then=REST))
    status, body, _ = run(engines, peers=2, virtual=True)
    assert (status, len(engines.opened)) == (200, 1)
    assert body.count(b"data: {") == 10
    assert KEEPALIVE not in body


def test_a_stream_that_its_working_engine_overtook_continues_on_another() -> None:
    turns = itertools.count()
    engines = Engines(lambda: Part(ROLE, *REST) if next(turns) else Shown(OVERTAKEN, *MANY))
    status, body, _ = run(engines, peers=2, virtual=True)
    assert (status, len(engines.opened)) == (200, 2)
    assert b"after silence on i-0" in body
    pause = re.search(rb"pause ([0-9.]+) ms", body)
    assert pause is not None
    assert 2_000 <= float(pause[1]) <= 3_500, "the client has waited since the last token, whatever signs came"
    assert OVERTAKEN not in body


def test_no_silence_is_measured_against_a_pace_that_does_not_exist_yet() -> None:
    """One token gives no pace; the timeout of a first token applies."""
    engines = Engines(lambda: Shown(OVERTAKEN, TOKEN, count=80, then=REST))  # for 20 s
    status, _, _ = run(engines, peers=2, virtual=True)
    assert (status, len(engines.opened)) == (200, 1)


def test_the_number_of_engines_is_bounded_and_the_end_is_an_error() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN))
    status, body, line = run(engines, peers=9)
    assert (status, line) == (200, 200)
    assert len(engines.opened) == len(set(engines.opened)) == MAX_ENGINES
    assert b'"code":"engine_lost"' in body
    assert b"[DONE]" not in body


def test_a_request_with_state_continues_only_on_engines_whose_self_test_passed() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN))
    run(engines, peers=9, able=[4, 7], seed=1, temperature=1)
    assert engines.opened[0] == "i-0"
    assert set(engines.opened[1:]) == {"i-4", "i-7"}
    assert len(engines.opened) == MAX_ENGINES


def test_without_a_capable_engine_the_client_gets_the_reason_at_once() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN))
    _, body, _ = run(engines, peers=9, seed=1, temperature=1)
    assert engines.opened == ["i-0"]
    assert b'"code":"continuation_impossible"' in body
    assert b"a seed: its random numbers would start again" in body
    assert b"[DONE]" not in body


def test_before_the_first_byte_a_loss_of_all_engines_is_a_503() -> None:
    status, body, line = run(Engines(lambda: Part(status=500, stream=False)), peers=9)
    assert (status, line) == (503, 503)
    assert b'"code":"engine_lost"' in body


def test_a_refusal_of_the_request_is_passed_on_and_not_retried() -> None:
    engines = Engines(lambda: Part(b'{"error":{}}', status=400, stream=False))
    assert run(engines, peers=9) == (400, b'{"error":{}}', 400)
    assert len(engines.opened) == 1


def test_a_lone_node_is_not_requested_twice_and_the_client_gets_no_ready_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_stream, "WAIT_FOR_NODE_S", 0.2)
    engines = Engines(lambda: Part(ROLE, TOKEN))
    status, body, _ = run(engines, peers=0)
    assert status == 200
    assert engines.opened == ["i-0"]
    assert b'"code":"no_ready_node"' in body


ENDLESS: list[Callable[[], Part]] = [Silent, lambda: Part(ROLE, TOKEN, then=None)]


@pytest.mark.parametrize("play", ENDLESS, ids=["no answer yet", "in the middle"])
def test_a_client_that_disconnects_ends_its_request_also_before_an_answer(play: Callable[[], Part]) -> None:
    engines = Engines(play)
    status, _, _ = run(engines, peers=2, during=lambda _, client: client.disconnect())
    assert status == 499
    assert len(engines.opened) == 1


def test_a_node_that_leaves_sends_its_client_where_to_resume() -> None:
    engines = Engines(lambda: Part(ROLE, TOKEN, then=None))
    status, body, _ = run(engines, peers=2, during=lambda stream, _: stream.close_with_handoff())
    assert status in (200, 503)
    assert b'"code":"handoff"' in body
    assert b"resume stream s at: i-1:2, i-2:2" in body


def test_an_engine_waits_for_a_client_that_is_slow_and_so_does_the_next_one() -> None:
    def slow_then_gone(stream: ClientStream, client: MemoryRequest) -> None:
        client.set_congested(True)
        client.set_congested(False)
        client.set_congested(True)
        engines.played[0].abort(LossReason.RESET)
        asyncio.get_running_loop().call_later(0.05, client.disconnect)

    engines = Engines(lambda: Part(ROLE, TOKEN, then=None))
    run(engines, peers=2, during=slow_then_gone)
    assert engines.played[0].paused == [False, True, False, True]
    assert engines.played[1].paused == [True]


# whose fault it is


def answer_of(status: int, body: bytes, *, marked: bool = True) -> Callable[[], Part]:
    """An engine's own answer; marked: as the peer API marks it."""

    def play() -> Part:
        part = Part(body, status=status, stream=False)
        part.headers = {ENGINE_HEADER: b"1"} if marked else {}
        return part

    return play


def in_turn(*plays: Callable[[], Part]) -> Engines:
    left = list(plays)

    def play() -> Part:
        return left.pop(0)()

    return Engines(play)


ERROR = b'{"error":{"message":"it","type":"InternalServerError","param":null,"code":500}}'
TYPO = b'{"error":{"message":"no","type":"BadRequestError","param":"x","code":400}}'
WHOLE = b'data: {"id":"e","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop","token_ids":[7]}]}\n\n'


@pytest.mark.parametrize(
    ("status", "code"), [(401, "not_a_peer"), (404, "unknown_route"), (429, "x"), (503, "x"), (500, "x"), (413, "x")]
)
def test_a_peer_doors_own_status_is_never_the_clients(status: int, code: str) -> None:
    refusal = answer_of(
        status, b'{"error":{"message":"this door is for peers","code":"%b"}}' % code.encode(), marked=False
    )
    engines = in_turn(lambda: Part(ROLE), refusal, lambda: Part(ROLE, WHOLE, then=LossReason.EOF))
    got, body, _ = run(engines, peers=3)
    assert (got, len(engines.opened)) == (200, 3)
    assert b'"finish_reason":"stop"' in body
    assert b"[DONE]" in body


def test_an_error_of_the_request_gets_one_more_engine_and_is_then_passed_on() -> None:
    engines = in_turn(answer_of(500, ERROR), answer_of(500, ERROR))
    assert run(engines, peers=9) == (500, ERROR, 500)
    assert len(engines.opened) == 2


def test_without_another_engine_the_error_of_the_only_one_is_passed_on() -> None:
    assert run(in_turn(answer_of(500, ERROR)), peers=0) == (500, ERROR, 500)


def test_an_error_without_a_message_gets_openais_form() -> None:
    engines = in_turn(answer_of(500, b"Internal Server Error"), answer_of(502, b""))
    status, body, _ = run(engines, peers=9)
    assert (status, orjson.loads(body)["error"]["code"]) == (500, "engine_error")


def test_an_error_event_that_vllm_sends_behind_its_head_is_passed_on_unchanged() -> None:
    engines = in_turn(lambda: Part(b"data: %b\n\n" % TYPO, sse.message(sse.DONE), then=LossReason.EOF))
    status, body, _ = run(engines, peers=9)
    assert (status, len(engines.opened)) == (200, 1)
    assert body == b"data: %b\n\ndata: [DONE]\n\n" % TYPO


def test_an_error_event_of_the_request_gets_one_more_engine() -> None:
    engines = in_turn(*[lambda: Part(b"data: %b\n\n" % ERROR)] * 3)
    _, body, _ = run(engines, peers=9)
    assert len(engines.opened) == 2
    assert ERROR in body


def test_a_refused_continuation_is_not_passed_on_as_a_refusal_of_the_request() -> None:
    engines = in_turn(lambda: Part(ROLE, TOKEN), answer_of(400, TYPO), lambda: Part(ROLE, then=LossReason.RESET))
    _, body, _ = run(engines, peers=9)
    assert len(engines.opened) == 3
    assert b'"code":"engine_lost"' in body
    assert b"reset, refused-continuation, reset" in body


def test_engines_without_room_are_a_429() -> None:
    engines = in_turn(*[answer_of(503, b'{"error":{"message":"busy"}}')] * 3)
    status, body, _ = run(engines, peers=9)
    assert (status, orjson.loads(body)["error"]["code"]) == (429, "fleet_full")


def test_a_request_that_ends_two_engines_ends_no_third() -> None:
    word = sse.named_event(b"synkti-lost", b"engine-died 4 alone")
    engines = in_turn(lambda: Part(then=EngineDeath(LossReason.ENGINE_DIED, "1", alone=True)), lambda: Part(word))
    _, body, _ = run(engines, peers=9)
    assert len(engines.opened) == 2
    assert b'"code":"request_kills_engines"' in body


def test_a_request_beside_the_one_that_ended_the_engines_continues() -> None:
    engines = in_turn(
        lambda: Part(then=EngineDeath(LossReason.ENGINE_DIED, "1", alone=False)),
        lambda: Part(then=EngineDeath(LossReason.ENGINE_DIED, "1", alone=False)),
        lambda: Part(ROLE, WHOLE, then=LossReason.EOF),
    )
    _, body, _ = run(engines, peers=9)
    assert b'"finish_reason":"stop"' in body
