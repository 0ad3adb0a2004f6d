"""The engine's stream is one that the agent reads, and the clients count its tokens."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from bench.engine import Connection, StepTimer, answer_parts, whole_answer
from bench.load import request_bytes, run_clients
from bench.proc import cpu_s, cpu_s_of_stat, rss_bytes
from node_agent.core.openai.generation_request import ApiRoute, read_generation
from node_agent.core.openai.sse import SseParser
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.state import StreamState

HOST = "127.0.0.1"


def without_http(parts: tuple[bytes, ...]) -> bytes:
    """The body of a chunked response."""
    _, _, rest = b"".join(parts).partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("chat", [True, False])
def test_the_agent_takes_the_engines_stream_for_a_complete_answer(chat: bool) -> None:
    kind = ApiRoute.CHAT if chat else ApiRoute.COMPLETION
    prompt: dict[str, Any] = {"messages": []} if chat else {"prompt": "p"}
    raw = orjson.dumps({"model": "bench", "stream": True, "max_tokens": 5, **prompt})
    machine = ChunkStream(read_generation(kind, raw), "s")
    machine.request()
    machine.feed(without_http(answer_parts(chat, True, 5)))
    assert machine.state is StreamState.COMPLETE
    assert machine.tokens == 5


def test_ids_are_sent_only_on_request() -> None:
    assert b"token_ids" not in b"".join(answer_parts(True, False, 3))
    events = SseParser().feed(without_http(answer_parts(False, True, 3)))
    assert [orjson.loads(data)["choices"][0]["token_ids"] for _, data in events[:-1]] == [[1000], [1001], [1002]]


def test_a_whole_answer_is_json_of_the_length_in_its_header() -> None:
    head, _, body = whole_answer(True).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head
    assert orjson.loads(body)["choices"][0]["finish_reason"] == "stop"


def given(port: int, **changed: Any) -> argparse.Namespace:
    values: dict[str, Any] = {"streams": 3, "each": 2, "tokens": 8, "spread": 0.0, "whole": False, "pid": os.getpid()}
    return argparse.Namespace(host=HOST, port=port, **{**values, **changed})


def against(make: Callable[[], Any], **changed: Any) -> dict[str, Any]:
    """Return the clients' figures of a server. make: its protocol for a connection, called inside the loop."""

    async def measure() -> dict[str, Any]:
        made: list[Any] = []

        def protocol() -> asyncio.Protocol:
            made.append(make())
            return made[-1]  # type: ignore[no-any-return] # one of the two below

        server = await asyncio.get_running_loop().create_server(protocol, HOST, 0)
        async with server:
            figures = await run_clients(given(server.sockets[0].getsockname()[1], **changed))
        for connection in made:
            connection._transport.abort()
        await asyncio.sleep(0)  # the turn in which the sockets close
        return figures

    return asyncio.run(measure())


def engine() -> Callable[[], Connection]:
    """Connections to one engine, of 2 ms for each token."""
    steps: list[StepTimer] = []

    def connection() -> Connection:
        if not steps:
            steps.append(StepTimer())
            steps[0].seconds_per_token = 0.002
        return Connection(steps[0])

    return connection


def test_clients_count_every_token_and_time_every_gap_but_the_first() -> None:
    figures = against(engine())
    assert (figures["units"], figures["failed"]) == (3 * 2 * 8, 0)
    assert 0 < figures["first_s"][0] <= figures["first_s"][1]
    assert 0 <= figures["gap_s"][0] <= figures["gap_s"][1]


def test_whole_answers_are_counted_as_requests() -> None:
    figures = against(engine(), whole=True)
    assert (figures["units"], figures["failed"], figures["gap_s"]) == (6, 0, [])


class Stub(asyncio.Protocol):
    """Answers every request with the same bytes, and hangs up."""

    answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # a server's connection has one

    def data_received(self, data: bytes) -> None:
        self._transport.write(self.answer)
        self._transport.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"".join(answer_parts(True, False, 7)),  # one token less than requested
        b"".join(answer_parts(True, False, 8)).replace(b"200 OK", b"503 No"),
        b"".join(answer_parts(True, False, 8)[:-1]),  # broken off
    ],
)
def test_an_incomplete_answer_is_a_failure(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "answer", answer)
    figures = against(Stub, streams=1, each=1)
    assert (figures["units"], figures["failed"]) == (0, 1)


def test_a_request_is_whole_http() -> None:
    head, _, body = request_bytes(HOST, streaming=True, tokens=4).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head
    assert orjson.loads(body)["max_tokens"] == 4


def test_cpu_time_is_read_past_a_name_with_spaces_and_parentheses() -> None:
    stat = "7 (a (odd) name) S " + " ".join(str(number) for number in range(4, 40))
    assert cpu_s_of_stat(stat, 100) == (14 + 15) / 100


def test_the_proc_files_of_this_process_are_read() -> None:
    assert cpu_s(os.getpid()) > 0
    assert rss_bytes(os.getpid()) > 2**20
