"""Scripted engines, and one client's stream from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson

from local.lone_node import lone_node
from node_agent.core.failure.loss import Loss, LossReason
from node_agent.core.journal.epochs import Epoch
from node_agent.core.node.status import NodeStatus
from node_agent.core.openai.client_headers import StreamReader
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.replication.replica_store import ReplicaStore
from node_agent.core.replication.replicated_log import ReplicatedLog
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.ports import ExchangeLost, ReplicaLink, Response
from node_agent.runtime.client_api.client_stream import ClientStream
from node_agent.runtime.client_api.sse_response import SseResponse
from node_agent.runtime.node.context import NodeContext
from node_agent.runtime.replication.manager import ReplicationManager
from node_agent.testing.fake_requests import MemoryRequest
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

    @property
    def aborted_with(self) -> Loss | None:
        return self._aborted.result() if self._aborted.done() else None

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
