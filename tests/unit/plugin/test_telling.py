"""The plug-in's id events between the chunks of a faked server, without vLLM."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from synkti_engine import token_id_emitter
from synkti_engine.arguments import BadArguments
from synkti_engine.token_id_emitter import (
    FINISH_EVENT,
    IDS_EVENT,
    PROMPT_EVENT,
    TokenIdEndpoint,
    TokenIdMiddleware,
    emit_for,
    prompt_digest,
)

PROMPT = [1, 394, 70_000]
HEADERS = [(b"Content-Type", b"text/event-stream; charset=utf-8")]


@dataclass
class Choice:
    token_ids: list[int]
    finish_reason: str | None = None


@dataclass
class Output:
    """As vLLM's RequestOutput: the prompt's ids come with the first only."""

    outputs: list[Choice]
    prompt_token_ids: list[int] | None = None


def outputs(*ids: list[int], prompt: list[int] | None = PROMPT) -> list[Output]:
    return [Output([Choice(some)], None if place else prompt) for place, some in enumerate(ids)]


@dataclass
class Engine:
    """What is generated, and whether the generator was closed."""

    results: Sequence[Output]
    closed: bool = False
    pulled: int = 0

    async def generate(self) -> AsyncGenerator[Output, None]:
        try:
            for output in self.results:
                self.pulled += 1
                await asyncio.sleep(0)
                yield output
        finally:
            self.closed = True


Render = Callable[[Output], Iterable[bytes]]


def each(output: Output) -> Iterable[bytes]:
    return (f"data: {output.outputs[0].token_ids}\n\n".encode(),)


@dataclass
class Server:
    """An app as vLLM's: an own task makes the answer, which is pulled from the generator."""

    engine: Engine
    render: Render = each
    wants: bool = True
    cumulative: bool = False
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: HEADERS)
    first: tuple[bytes, ...] = ()
    last: tuple[bytes, ...] = (b"data: [DONE]\n\n", b"")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.create_task(self._answer(send))

    async def _answer(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        for part in self.first:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        held = token_id_emitter.current_emitter.get()
        made = self.engine.generate()
        if self.wants and held is not None:
            made = emit_for(made, held, choices=1, cumulative=self.cumulative)
        async for output in made:
            for part in self.render(output):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        for place, part in enumerate(self.last, 1):
            await send({"type": "http.response.body", "body": part, "more_body": place < len(self.last)})


def ran(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(story)


async def bodies_of(app: Any, scope: dict[str, Any] | None = None) -> list[bytes]:
    """The bodies that were sent, each for itself."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        if message["type"] == "http.response.body":
            sent.append(bytes(message["body"]))

    async def receive() -> Any:
        raise AssertionError("nothing is read here")

    await TokenIdMiddleware(app)(scope or {"type": "http", "method": "POST"}, receive, send)
    return sent


def events_in(bodies: Sequence[bytes]) -> list[tuple[str, Any]]:
    """Return the plug-in's events with their names and values; of other events the data."""
    found: list[tuple[str, Any]] = []
    for event in b"".join(bodies).split(b"\n\n")[:-1]:
        lines = event.decode().split("\n")
        if lines[0].startswith("event: synkti-"):
            found.append((lines[0][7:], json.loads(lines[1][6:])))
        else:
            found.append(("", lines[-1][6:]))
    return found


def test_the_prompt_is_sent_once_and_ids_precede_the_chunk_that_they_caused() -> None:
    bodies = ran(bodies_of(Server(Engine(outputs([5], [6, 7], [8])))))
    assert events_in(bodies) == [
        (PROMPT_EVENT, prompt_digest(PROMPT)),
        (IDS_EVENT, [5]),
        ("", "[5]"),
        (IDS_EVENT, [6, 7]),
        ("", "[6, 7]"),
        (IDS_EVENT, [8]),
        ("", "[8]"),
        ("", "[DONE]"),
    ]
    assert bodies[0].startswith(b'event: synkti-prompt\ndata: "')
    assert bodies[1].startswith(b"event: synkti-ids\ndata: [6,7]\n\ndata: ")


def test_a_digest_is_that_of_little_endian_uint32() -> None:
    raw = bytes([1, 0, 0, 0, 138, 1, 0, 0, 112, 17, 1, 0])
    assert prompt_digest(PROMPT) == hashlib.sha256(raw).hexdigest()
    assert prompt_digest([]) == hashlib.sha256(b"").hexdigest()


def test_chunks_before_the_generation_have_no_event_before_them() -> None:
    bodies = ran(bodies_of(Server(Engine(outputs([5])), first=(b"event: created\ndata: {}\n\n",))))
    assert [name for name, _ in events_in(bodies)] == ["", PROMPT_EVENT, IDS_EVENT, "", ""]


def test_several_chunks_of_one_output_have_its_ids_before_the_first() -> None:
    bodies = ran(bodies_of(Server(Engine(outputs([5], [6])), render=lambda output: [*each(output)] * 2)))
    assert [data for name, data in events_in(bodies) if name != PROMPT_EVENT] == [
        [5], "[5]", "[5]", [6], "[6]", "[6]", "[DONE]",
    ]  # fmt: skip


def test_ids_without_a_chunk_are_sent_before_the_next_are_pulled() -> None:
    engine = Engine(outputs([5], [6], [7]))
    seen: list[tuple[int, bytes]] = []

    async def story() -> None:
        async def send(message: Any) -> None:
            if body := message.get("body"):
                seen.append((engine.pulled, body))

        app = Server(engine, render=lambda output: each(output) if output.outputs[0].token_ids == [7] else ())
        await TokenIdMiddleware(app)({"type": "http", "method": "POST"}, None, send)  # type: ignore[arg-type]

    ran(story())
    assert [pulled for pulled, _ in seen] == [1, 2, 3, 3]
    assert events_in([body for _, body in seen])[1:] == [
        (IDS_EVENT, [5]), (IDS_EVENT, [6]), (IDS_EVENT, [7]), ("", "[7]"), ("", "[DONE]"),
    ]  # fmt: skip


def test_no_event_is_inserted_into_another_one() -> None:
    def in_halves(output: Output) -> Iterable[bytes]:
        (whole,) = each(output)
        return whole[:9], whole[9:-1], whole[-1:]

    bodies = ran(bodies_of(Server(Engine(outputs([5], [6])), render=in_halves)))
    assert events_in(bodies) == [
        (PROMPT_EVENT, prompt_digest(PROMPT)), (IDS_EVENT, [5]), ("", "[5]"), (IDS_EVENT, [6]), ("", "[6]"),
        ("", "[DONE]"),
    ]  # fmt: skip
    broken = ran(bodies_of(Server(Engine(outputs([5], [6])), render=lambda _: (b"data: half",), last=(b"",))))
    assert b"".join(broken).endswith(b"data: halfdata: half"), "half an event stays half an event"


def test_of_cumulative_outputs_only_new_ids_are_sent() -> None:
    bodies = ran(bodies_of(Server(Engine(outputs([5], [5, 6, 7], [5, 6, 7], [5, 6, 7, 8])), cumulative=True)))
    assert [data for name, data in events_in(bodies) if name == IDS_EVENT] == [[5], [6, 7], [8]]


def test_a_prompt_without_ids_is_sent_as_null() -> None:
    assert events_in(ran(bodies_of(Server(Engine(outputs([5], prompt=None))))))[0] == (PROMPT_EVENT, None)


def test_an_output_without_a_choice_sends_no_ids() -> None:
    bodies = ran(bodies_of(Server(Engine([Output([], PROMPT), *outputs([5])]), render=lambda _: ())))
    assert [name for name, _ in events_in(bodies)] == [PROMPT_EVENT, IDS_EVENT, ""]


def test_a_response_of_a_request_without_the_argument_is_unchanged() -> None:
    server = Server(Engine(outputs([5], [6])), wants=False)
    assert ran(bodies_of(server)) == [b"data: [5]\n\n", b"data: [6]\n\n", b"data: [DONE]\n\n", b""]


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"application/json"), (b"content-length", b"9")]])
def test_an_answer_in_one_piece_is_left_alone(headers: list[tuple[bytes, bytes]]) -> None:
    server = Server(Engine(outputs([5])), headers=headers, render=lambda _: (), last=(b'{"a": 1}\n\n',))
    assert ran(bodies_of(server)) == [b'{"a": 1}\n\n']


@pytest.mark.parametrize("scope", [{"type": "lifespan"}, {"type": "websocket"}, {"type": "http", "method": "GET"}])
def test_a_scope_other_than_post_gets_no_events(scope: dict[str, Any]) -> None:
    assert b"synkti" not in b"".join(ran(bodies_of(Server(Engine(outputs([5]))), scope)))


def test_no_ids_leak_into_another_request_or_the_next_of_a_connection() -> None:
    async def story() -> list[list[bytes]]:
        servers = [Server(Engine(outputs([at], [at + 100], [at + 200])), wants=at % 3 > 0) for at in range(30)]
        return [
            *await asyncio.gather(*(bodies_of(server) for server in servers)),
            [str(token_id_emitter.current_emitter.get()).encode()],
        ]

    *answers, outside = ran(story())
    for at, bodies in enumerate(answers):
        ids = [token for name, data in events_in(bodies) if name == IDS_EVENT for token in data]
        assert ids == ([at, at + 100, at + 200] if at % 3 else [])
    assert outside == [b"None"]


def test_a_context_is_clean_after_a_server_that_fails() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        assert token_id_emitter.current_emitter.get() is not None
        raise ZeroDivisionError

    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            await bodies_of(fails)
        assert token_id_emitter.current_emitter.get() is None

    ran(story())


def test_a_reader_that_leaves_closes_the_generator() -> None:
    engine = Engine(outputs([5], [6]))

    async def story() -> None:
        async def server(scope: Any, receive: Any, send: Any) -> None:
            held = token_id_emitter.current_emitter.get()
            assert held is not None
            made = emit_for(engine.generate(), held, choices=1, cumulative=False)
            await anext(made)
            await made.aclose()

        await bodies_of(server)

    ran(story())
    assert engine.closed
    assert engine.pulled == 1


def test_concurrent_generations_are_refused_and_consecutive_ones_begin_anew() -> None:
    async def twice(scope: Any, receive: Any, send: Any) -> None:
        held = token_id_emitter.current_emitter.get()
        assert held is not None
        with pytest.raises(BadArguments, match="n=2"):
            emit_for(Engine([]).generate(), held, choices=2, cumulative=False)
        await send({"type": "http.response.start", "headers": HEADERS})
        for prompt in ([1], [2]):
            made = emit_for(Engine(outputs([5], prompt=prompt)).generate(), held, choices=1, cumulative=False)
            with pytest.raises(BadArguments, match="several prompts"):
                emit_for(Engine([]).generate(), held, choices=1, cumulative=False)
            _ = [output async for output in made]
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    assert events_in(ran(bodies_of(twice))) == [
        (PROMPT_EVENT, prompt_digest([1])), (IDS_EVENT, [5]), (PROMPT_EVENT, prompt_digest([2])), (IDS_EVENT, [5]),
    ]  # fmt: skip


def test_after_its_last_body_a_stream_gets_no_event() -> None:
    async def server(scope: Any, receive: Any, send: Any) -> None:
        held = token_id_emitter.current_emitter.get()
        assert held is not None
        await send({"type": "http.response.start", "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": False})
        _ = [one async for one in emit_for(Engine(outputs([5])).generate(), held, choices=1, cumulative=False)]

    assert ran(bodies_of(server)) == [b"data: 1\n\n"]


def test_the_endpoint_adds_the_middleware_to_the_servers_app() -> None:
    added: list[Any] = []

    class App:
        def add_middleware(self, kind: Any) -> None:
            added.append(kind)

    TokenIdEndpoint().attach_router(App())
    assert added == [TokenIdMiddleware]
    assert ran(TokenIdEndpoint().init_state(None, None, None)) is None


def test_the_finish_reason_is_sent_between_the_last_ids_and_their_chunk() -> None:
    results = outputs([1], [2])
    results[-1].outputs[0].finish_reason = "abort"
    found = events_in(ran(bodies_of(Server(Engine(results)))))
    assert found[-4:] == [(IDS_EVENT, [2]), (FINISH_EVENT, "abort"), ("", "[2]"), ("", "[DONE]")]
