"""The stream state machine: after any losses the client has the uninterrupted answer, or an error."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.chunks import usage
from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest, read_generation
from node_agent.core.openai.sse import SseParser
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.factory import replay_journal
from node_agent.core.streams.state import LOST_EVENT, StreamState
from tests.generated import examples
from tests.unit.core.streams.engine_script import FIRST_ID, PROMPT, PROMPT_TEXT, ScriptedModel

CHARACTERS = "abc \n.é漢字🚀🌍👩‍💻ع"


@st.composite
def models(draw: st.DrawFn) -> ScriptedModel:
    """Draw texts of multi-byte characters, cut into tokens of one to four bytes, also inside characters."""
    data = draw(st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=24)).encode()
    pieces, start = [], 0
    while start < len(data):
        size = draw(st.integers(1, 4))
        pieces.append(data[start : start + size])
        start += size
    return ScriptedModel(tuple(pieces))


def generation(route: ApiRoute, **fields: Any) -> GenerationRequest:
    prompt: dict[str, Any] = {"messages": []} if route is ApiRoute.CHAT else {"prompt": list(PROMPT)}
    body = {"model": "m", "stream": True, "temperature": 0, "max_tokens": 64, **prompt, **fields}
    return read_generation(route, orjson.dumps(body))


class Client:
    """Parse the received bytes as an OpenAI client does."""

    def __init__(self) -> None:
        self.raw = b""

    def lose(self, unread: int) -> None:
        """Break the connection with `unread` bytes in flight; a partial event counts as not received."""
        self.raw = self.raw[: len(self.raw) - unread] if unread < len(self.raw) else b""
        self.raw = self.raw[: self.raw.rfind(b"\n\n") + 2] if b"\n\n" in self.raw else b""

    @property
    def seq(self) -> int:
        return max(self.numbers, default=0)

    def chunks(self) -> list[dict[str, Any]]:
        events = SseParser().feed(self.raw)
        return [orjson.loads(data) for _, data in events if data != b"[DONE]"]

    def choices(self, index: int) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks() for choice in chunk["choices"] if choice["index"] == index]

    @property
    def text(self) -> str:
        return self.text_of(0)

    def text_of(self, index: int) -> str:
        return "".join(
            choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
            for choice in self.choices(index)
        )

    def answer(self, index: int) -> dict[str, Any]:
        """Return all that the client received of one choice, independent of the events."""
        answer: dict[str, Any] = {"text": self.text_of(index), "ids": [], "reasons": [], "roles": 0, "logprobs": {}}
        for choice in self.choices(index):
            answer["ids"] += choice.get("token_ids") or ()
            answer["roles"] += "role" in choice.get("delta", {})
            answer["reasons"] += [choice["finish_reason"]] if choice["finish_reason"] else []
            for name, values in (choice.get("logprobs") or {}).items():
                answer["logprobs"].setdefault(name, []).extend(values)
        return answer

    @property
    def numbers(self) -> list[int]:
        return [int(line.rpartition(b"/")[2]) for line in self.raw.split(b"\n") if line.startswith(b"id: ")]


def engine_events(machine: ChunkStream, model: ScriptedModel, methods: Collection[str] = ()) -> list[bytes]:
    """Return the next engine's events for the machine's request."""
    request = machine.request(methods)
    return model.chunks(orjson.loads(request.body), chat=request.path == ApiRoute.CHAT.value)


@dataclass(frozen=True)
class Cut:
    """Lose an engine after `events` of its events; or lose the entry, with `unread` bytes in flight."""

    events: int
    entry: bool = False
    unread: int = 0


def run(machine: ChunkStream, model: ScriptedModel, cuts: list[Cut], methods: Collection[str] = ()) -> Client:
    """Lose an engine or the entry at each cut, then let an engine finish."""
    client, cuts = Client(), list(cuts)
    while machine.state is not StreamState.COMPLETE:
        cut = cuts.pop(0) if cuts else None
        for event in engine_events(machine, model, methods)[: cut.events if cut else None]:
            client.raw += machine.feed(event)
        if cut is None:
            continue
        if cut.entry:
            client.lose(cut.unread)
            journal = bytes(machine.journal)
            after, machine = client.seq, ChunkStream(machine.generation, "s")
            replay = replay_journal(machine, journal, after)
            client.raw += replay
        client.raw += machine.on_engine_end(LossReason.RESET)
    return client


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "stop": st.lists(st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=4), min_size=1, max_size=2),
        "max_tokens": st.integers(1, 40) | st.none(),
        "return_token_ids": st.booleans(),
        "include_stop_str_in_output": st.just(False),
        "stream_options": st.just({"include_usage": True}),
        "n": st.integers(1, 3),
        "logprobs": st.integers(0, 1),
        "echo": st.booleans(),
        "vllm_xargs": st.just({"theirs": 1}),
    },
)
METHODS = st.sampled_from([(), ("resume",), ("forced",)])
CUTS = st.builds(Cut, st.integers(0, 60), st.booleans(), st.integers(0, 300))


def route_fields(route: ApiRoute, fields: dict[str, Any], *, is_text: bool, is_whole: bool) -> dict[str, Any]:
    """Return fields in the route's form. is_text: a text prompt. is_whole: each choice is one chunk."""
    if route is ApiRoute.CHAT:
        fields = {**fields, "messages": [{"role": "assistant", "content": "so far"}]}
        fields |= {"logprobs": True, "top_logprobs": 1} if "logprobs" in fields else {}
        return {**fields, "use_beam_search": True} if is_whole else fields
    fields = {**fields, "prompt": PROMPT_TEXT} if is_text else fields
    return {**fields, "max_tokens": 0} if is_whole and fields.get("echo") else fields


def uninterrupted(model: ScriptedModel, request: GenerationRequest) -> Client:
    """Return what a client receives directly from one engine."""
    client = Client()
    client.raw = b"".join(model.chunks(dict(request.body), chat=request.route is ApiRoute.CHAT))
    return client


@settings(max_examples=examples(1000))
@given(
    models(),
    st.sampled_from((ApiRoute.CHAT, ApiRoute.COMPLETION)),
    FIELDS,
    st.lists(CUTS, max_size=4),
    st.booleans(),
    st.booleans(),
    METHODS,
)
def test_an_answer_that_was_cut_equals_the_one_that_was_not(
    model: ScriptedModel,
    route: ApiRoute,
    fields: dict[str, Any],
    cuts: list[Cut],
    is_text: bool,
    is_whole: bool,
    methods: tuple[str, ...],
) -> None:
    """With a seed the engines resume or force ids, as they support it; else they are reprompted."""
    fields = {**fields, "seed": 3, "temperature": 1} if methods else {**fields, "vllm_xargs": {}}
    request = generation(route, **route_fields(route, fields, is_text=is_text, is_whole=is_whole))
    expected = uninterrupted(model, request)
    client = run(ChunkStream(request, "s"), model, cuts, methods)
    for index in range(request.choices):
        assert client.answer(index) == expected.answer(index)
    assert client.raw.endswith(b"data: [DONE]\n\n")
    assert client.numbers == list(range(1, len(client.numbers) + 1))
    usages = [chunk["usage"] for chunk in client.chunks() if "usage" in chunk]
    assert len(usages) == ("stream_options" in fields)
    if usages and not request.single_chunk:
        counting = {key: value for key, value in request.body.items() if key != "echo"} | {"return_token_ids": True}
        finished = uninterrupted(model, read_generation(route, orjson.dumps(counting)))
        tokens = sum(len(finished.answer(index)["ids"]) for index in range(request.choices))
        assert usages[0] == usage(len(PROMPT), tokens)


@settings(max_examples=examples(200))
@given(
    models(),
    st.sampled_from((ApiRoute.CHAT, ApiRoute.COMPLETION)),
    FIELDS,
    st.lists(st.integers(0, 40), min_size=1, max_size=3),
    st.integers(1, 7),
)
def test_the_delivered_text_is_always_a_prefix_whatever_the_chunking(
    model: ScriptedModel, route: ApiRoute, fields: dict[str, Any], cuts: list[int], step: int
) -> None:
    fields = route_fields(route, {**fields, "n": 1, "vllm_xargs": {}}, is_text=step % 2 == 0, is_whole=False)
    whole = run(ChunkStream(generation(route, **fields), "s"), model, []).text
    machine, client = ChunkStream(generation(route, **fields), "s"), Client()
    for cut in cuts:
        data = b"".join(engine_events(machine, model)[:cut])
        data = data[: -step if step < len(data) else None]  # the last event is partial, or ends inside a character
        for at in range(0, len(data), step):
            client.raw += machine.feed(data[at : at + step])
        client.raw += machine.on_engine_end(LossReason.EOF)
        assert whole.startswith(client.text)
        if machine.state is StreamState.COMPLETE:
            assert client.text == whole
            return


def test_every_event_has_a_number_that_counts_delivered_events() -> None:
    client = run(ChunkStream(generation(ApiRoute.CHAT), "abc"), ScriptedModel((b"a", b"b", b"c")), [Cut(2)])
    assert b"id: abc/2\n" in client.raw
    assert client.numbers == list(range(1, len(client.numbers) + 1))


def test_the_client_sees_one_answer_under_one_name() -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT), "s")
    model = ScriptedModel((b"a", b"b", b"c"))
    client = Client()
    for event in engine_events(machine, model)[:2]:
        client.raw += machine.feed(event.replace(b'"id":"e"', b'"id":"first"').replace(b'"created":1', b'"created":9'))
    machine.on_engine_end(LossReason.RESET)
    for event in engine_events(machine, model):
        client.raw += machine.feed(event)
    assert {(chunk["id"], chunk["created"]) for chunk in client.chunks()} == {("first", 9)}
    assert all(
        c.get("token_ids") is None and chunk.get("prompt_token_ids") is None
        for chunk in client.chunks()
        for c in chunk["choices"]
    )


LOSSES = {
    "error-chunk": b'data: {"error":{"message":"EngineCore died","code":500}}\n\n',
    "done-without-finish": b"data: [DONE]\n\n",
    "abort": b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"abort"}]}\n\n',
    "malformed-chunk": b'data: {"choi\n\n',
    "handoff": b"event: %b\ndata: handoff\n\n" % LOST_EVENT,
}


@pytest.mark.parametrize(("reason", "data"), LOSSES.items())
def test_each_way_to_lose_an_engine_is_a_loss_and_delivers_nothing(reason: str, data: bytes) -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT), "s")
    events = engine_events(machine, ScriptedModel((b"a", b"b")))
    before = machine.feed(events[0]) + machine.feed(events[1])
    assert before
    assert machine.feed(data) == b""
    assert (machine.state, str(machine.loss_reason)) == (StreamState.LOST, reason)


@pytest.mark.parametrize("data", LOSSES.values())
def test_after_the_finish_reason_nothing_can_be_lost(data: bytes) -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT, stream_options={"include_usage": True}), "s")
    events = engine_events(machine, ScriptedModel((b"a", b"b")))
    client = Client()
    for event in events[:-1]:
        client.raw += machine.feed(event)
    assert machine.state.value == "finished"
    client.raw += machine.feed(data)
    assert machine.state is StreamState.COMPLETE
    assert client.chunks()[-1]["usage"]["completion_tokens"] == 3
    assert client.raw.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "field",
    [
        {"seed": 1},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a+"}},
        {"tools": [{"type": "function"}]},
        {"vllm_xargs": {"theirs": 1}},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_stream_that_a_reprompt_would_corrupt_is_refused_after_its_first_token(
    field: dict[str, Any],
) -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT, temperature=1, **field), "s")
    first = machine.request()
    machine.on_engine_end(LossReason.REFUSED)
    assert machine.request() == first
    events = ScriptedModel((b"a", b"b")).chunks(orjson.loads(first.body), chat=True)
    machine.feed(events[0] + events[1])
    machine.on_engine_end(LossReason.RESET)
    with pytest.raises(ContinuationImpossible):
        machine.request()


def test_reasoning_is_refused_although_no_field_names_it() -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT), "s")
    machine.request()
    machine.feed(b'data: {"choices":[{"index":0,"delta":{"reasoning":"hm"},"finish_reason":null,"token_ids":[9]}]}\n\n')
    machine.on_engine_end(LossReason.RESET)
    with pytest.raises(ContinuationImpossible, match="reasoning"):
        machine.request()


def test_a_different_continuation_is_a_loss() -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT, stop=["zzz"]), "s")
    model = ScriptedModel((b"abc", b"def", b"ghi"))
    delivered = b"".join(
        machine.feed(event) for event in engine_events(machine, model)[:3]
    )  # "abcd": two are held back
    machine.on_engine_end(LossReason.RESET)
    other = ScriptedModel((b"abc", b"XYZ", b"ghi"))
    assert b"".join(machine.feed(event) for event in engine_events(machine, other)) == b""
    assert machine.loss_reason == LossReason.DIVERGED
    rest = b"".join(machine.feed(event) for event in engine_events(machine, model))
    client = Client()
    client.raw = delivered + rest
    assert client.text == "abcdefghi"


@pytest.mark.parametrize(
    ("temperature", "ids", "method"),
    [
        (1.0, [FIRST_ID], ContinuationMethod.REPROMPT),
        (1.0, [FIRST_ID, FIRST_ID + 1], ContinuationMethod.RESUME),
        (0, [FIRST_ID, FIRST_ID + 1], ContinuationMethod.REPROMPT),
    ],
)
def test_sampled_text_without_a_resume_point_is_resumed_not_drawn_again(
    temperature: float, ids: list[int], method: ContinuationMethod
) -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT, temperature=temperature), "s")
    machine.request()
    choice = {"index": 0, "delta": {"content": "ab"}, "finish_reason": None, "token_ids": ids}
    chunk = {"id": "e", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    assert machine.feed(b"data: %b\n\n" % orjson.dumps(chunk | {"prompt_token_ids": [1]}))
    machine.on_engine_end(LossReason.RESET)
    chosen = machine.method_for(["resume", "forced"])
    assert chosen is not None
    assert chosen.method is method


def test_limits_are_reduced_by_the_generated_tokens() -> None:
    machine = ChunkStream(generation(ApiRoute.COMPLETION, max_tokens=10, min_tokens=6), "s")
    for event in engine_events(machine, ScriptedModel((b"a", b"b", b"c", b"d", b"e", b"f")))[:4]:
        machine.feed(event)
    machine.on_engine_end(LossReason.RESET)
    body = orjson.loads(machine.request().body)
    assert (body["max_tokens"], body["min_tokens"]) == (6, 2)
    assert body["prompt"] == [*PROMPT, *range(FIRST_ID, FIRST_ID + 4)]


def test_an_answer_of_several_choices_ends_with_the_last_of_them() -> None:
    machine = ChunkStream(generation(ApiRoute.CHAT, n=2), "s")
    machine.request()
    end = b'data: {"choices":[{"index":%d,"delta":{"content":"x"},"finish_reason":"stop","token_ids":[1]}]}\n\n'
    machine.feed(end % 0)
    assert machine.state.value == "streaming"
    machine.feed(end % 1)
    assert machine.state.value == "finished"
