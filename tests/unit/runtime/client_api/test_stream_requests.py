"""The requests of one stream: what each engine receives, and in which order it is prepared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import orjson
import pytest

from node_agent.contract.errors import ContinuationImpossible
from node_agent.contract.names import KV_HEADER
from node_agent.core.continuation.silence import SilenceDetector
from node_agent.core.continuation.timeouts import MIN_INTER_TOKEN_S, first_token_timeout_s
from node_agent.core.failure.loss import EngineDeath, LossReason
from node_agent.core.node.status import NodeStatus
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.ports import Response
from node_agent.runtime.client_api.request_suspicion import RequestSuspicion
from node_agent.runtime.client_api.stream_requests import StreamRequests
from node_agent.runtime.node.crash_suspects import SUSPECT_HEADER
from tests.unit.runtime.a_node import make_node, status_of
from tests.unit.runtime.client_api.scripted_engines import BODY, ROLE, TOKEN, Part


class RecordingEngines:
    """Engines that record what they are asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.headers: dict[str, str] = {}
        self.max_tokens: int | None = None
        self.timeout_s = 0.0

    async def prefetch(self, node: NodeStatus, stream: str, source: str) -> None:
        self.calls.append(f"prefetch {source}")

    async def acquire_turn(self, node: NodeStatus) -> None:
        self.calls.append("turn")

    def request(
        self,
        node: NodeStatus,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        max_tokens: int | None,
        silence_timeout_s: float,
        turn: object,
    ) -> Response:
        self.calls.append(f"{method} {target}")
        self.headers, self.max_tokens, self.timeout_s = dict(headers), max_tokens, silence_timeout_s
        assert silence_timeout_s == first_token_timeout_s(len(body))
        return Part()


class Scene:
    """A stream, and the engines that its requests go to."""

    def __init__(self, **fields: object) -> None:
        node = make_node(0)
        self.engines = RecordingEngines()
        self.machine = ChunkStream(read_generation(ApiRoute.CHAT, orjson.dumps({**BODY, **fields})), "s")
        self.suspicion = RequestSuspicion(node.crash_suspects, self.machine.generation.body)
        self.requests = StreamRequests(
            self.engines,  # type: ignore[arg-type] # plays EngineClient
            "s",
            self.machine,
            {"authorization": "Bearer x", "x-request-id": "the-clients"},
            self.suspicion,
            node.metrics,
        )

    async def send(self) -> None:
        await self.requests.send(status_of(1), SilenceDetector(MIN_INTER_TOKEN_S))


def test_an_engine_receives_the_clients_headers_under_the_streams_id() -> None:
    async def story() -> None:
        scene = Scene()
        await scene.send()
        assert scene.engines.calls == ["prefetch ", "POST /v1/chat/completions"]
        assert scene.engines.headers == {
            "authorization": "Bearer x",
            "content-type": "application/json",
            "x-request-id": "s",
        }

    asyncio.run(story())


def test_the_next_engine_learns_where_the_context_was_and_generates_only_the_rest() -> None:
    async def story() -> None:
        scene = Scene(max_tokens=10)
        await scene.send()
        assert scene.engines.max_tokens == 10
        scene.machine.feed(ROLE + TOKEN * 3)
        scene.machine.on_engine_end(LossReason.RESET)
        scene.requests.context_source = "i-7"
        await scene.send()
        assert "prefetch i-7" in scene.engines.calls
        assert scene.engines.headers[KV_HEADER] == "i-7"
        assert scene.engines.max_tokens == 7
        assert KV_HEADER not in scene.requests._headers

    asyncio.run(story())


def test_a_suspect_request_is_marked_and_waits_for_its_turn() -> None:
    async def story() -> None:
        scene = Scene()
        scene.suspicion.on_death("i-9", EngineDeath(LossReason.ENGINE_DIED, "1", alone=True))
        await scene.send()
        assert scene.engines.calls == ["prefetch ", "turn", "POST /v1/chat/completions"]
        assert scene.engines.headers[SUSPECT_HEADER] == "1"

    asyncio.run(story())


def test_an_engine_that_cannot_continue_receives_nothing() -> None:
    async def story() -> None:
        scene = Scene(seed=1, temperature=1)
        await scene.send()
        scene.machine.feed(ROLE + TOKEN)
        scene.machine.on_engine_end(LossReason.RESET)
        with pytest.raises(ContinuationImpossible, match="a seed"):
            await scene.send()
        assert len(scene.engines.calls) == 2

    asyncio.run(story())
