"""Streams with state beside their ids: the next engine's request, and the checks of its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from node_agent.contract.errors import ContinuationImpossible, RequestRejected
from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest, read_generation
from node_agent.core.openai.request_body import read_body
from node_agent.core.openai.sse import SseParser
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.factory import replay_journal
from node_agent.core.streams.state import StreamState

BASE = {"model": "m", "messages": [], "stream": True, "max_tokens": 20, "seed": 5}
PROMPT = [7, 8]


def generation(**fields: Any) -> GenerationRequest:
    return read_generation(ApiRoute.CHAT, orjson.dumps({**BASE, **fields}))


def event(delta: dict[str, Any], ids: list[int] | None = None, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason} | ({"token_ids": ids} if ids is not None else {})
    return b"data: %b\n\n" % orjson.dumps(
        {"id": "e", "object": "o", "created": 1, "model": "m", "choices": [choice]} | more
    )


def role(prompt: list[int] = PROMPT) -> bytes:
    return event({"role": "assistant", "content": ""}, prompt_token_ids=prompt)


def call(arguments: str, name: str | None = None, number: int = 1) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"tool_calls": [{"index": 0, "function": function} | ({"id": f"call-{number}"} if name else {})]}


def lost_stream(*events: bytes, **fields: Any) -> tuple[ChunkStream, bytes]:
    """Return a stream whose first engine sent these events, and was lost."""
    machine = ChunkStream(generation(**fields), "s")
    machine.request()
    raw = b"".join(machine.feed(one) for one in (role(), *events))
    return machine, raw + machine.on_engine_end(LossReason.RESET)


def deltas(raw: bytes) -> list[dict[str, Any]]:
    return [
        choice["delta"]
        for _, data in SseParser().feed(raw)
        if data != b"[DONE]"
        for choice in orjson.loads(data)["choices"]
    ]


def text(raw: bytes) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(raw))


def test_a_continuation_repeats_the_request_with_all_ids_as_plugin_arguments() -> None:
    machine, _ = lost_stream(
        event({"content": "a"}, [1]), event({"content": ""}, [2]), response_format={"type": "json_object"}
    )
    request = machine.request(("forced", "resume"))
    body = orjson.loads(request.body)
    assert request.path == ApiRoute.CHAT.value
    assert body == {
        **BASE,
        "response_format": {"type": "json_object"},
        "return_token_ids": True,
        "vllm_xargs": {"synkti_resume_ids": [1, 2]},
    }
    assert machine.method_choice is not None
    assert "structured output" in machine.method_choice.reason


def test_the_ids_are_forced_where_the_engine_cannot_resume() -> None:
    machine, _ = lost_stream(event({"content": "a"}, [1]))
    assert orjson.loads(machine.request(("forced",)).body)["vllm_xargs"] == {"synkti_forced_ids": [1]}


def test_the_last_id_is_generated_again_and_compared_at_the_limit() -> None:
    machine, raw = lost_stream(*(event({"content": str(token)}, [token]) for token in (1, 2, 3)), max_tokens=3)
    assert orjson.loads(machine.request(("resume",)).body)["vllm_xargs"] == {"synkti_resume_ids": [1, 2]}
    raw += machine.feed(role()) + machine.feed(event({"content": "123"}, [1, 2, 3], "length"))
    raw += machine.on_engine_end(LossReason.EOF)
    assert machine.state is StreamState.COMPLETE
    assert text(raw) == "123"


def test_ids_without_a_text_are_resumed_too() -> None:
    """A partial character: the next engine is given its first ids, and sends the whole character."""
    machine, raw = lost_stream(event({"content": "a"}, [1]), event({}, [2]), event({"content": ""}, [3]))
    assert orjson.loads(machine.request(("resume",)).body)["vllm_xargs"]["synkti_resume_ids"] == [1, 2, 3]
    raw += machine.feed(role()) + machine.feed(event({"content": "a🚀"}, [1, 2, 3, 4]))
    assert text(raw) == "a🚀"


def test_a_line_separator_inside_a_text_is_no_end_of_a_line() -> None:
    machine, raw = lost_stream(event({"content": "a\u2028"}, [1]))
    machine.request(("resume",))
    raw += machine.feed(role()) + machine.feed(event({"content": "a\u2028b"}, [1, 2]))
    assert text(raw) == "a\u2028b"


@pytest.mark.parametrize(
    ("events", "case_name"),
    [
        ([event({"content": "x"}, [9])], "ids"),  # a server without the plug-in: 200, and an answer of its own
        ([event({"content": "x"}, [1, 2])], "text"),
        ([event({"content": "a"}, [1], "stop")], "end"),
        ([role([7, 9])], "prompt"),  # a template with the date
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_an_engine_with_another_answer_is_lost_before_any_of_it_is_delivered(
    events: list[bytes], case_name: str
) -> None:
    machine, _ = lost_stream(event({"content": "a"}, [1]), event({"content": "b"}, [2]))
    machine.request(("resume",))
    out = b"".join(machine.feed(one) for one in ([] if case_name == "prompt" else [role()]) + events)
    assert (out, machine.state, machine.loss_reason) == (b"", StreamState.LOST, LossReason.DIVERGED)
    machine.request(("resume",))
    raw = b"".join(map(machine.feed, (role(), event({"content": "abc"}, [1, 2, 3]))))
    assert text(raw) == "c"


TOOLS = {"tools": [{"type": "function", "function": {"name": "look"}}]}


@pytest.mark.parametrize("takeover", [False, True], ids=["engine", "entry"])
def test_a_tool_call_continues_under_its_first_id(takeover: bool) -> None:
    machine, raw = lost_stream(
        event(call("", "look"), [1]), event(call('{"a"'), [2]), event({}, [3]), event(call(": 1"), [4]), **TOOLS
    )
    if takeover:
        journal = bytes(machine.journal)
        after, machine = machine.seq, ChunkStream(machine.generation, "s")
        replay = replay_journal(machine, journal, after)
        assert replay == b""
    body = orjson.loads(machine.request(("resume",)).body)
    assert body["vllm_xargs"] == {"synkti_resume_ids": [1, 2, 3, 4], "synkti_apart": 1}
    for one in (
        role(), event(call("", "look", 2), [1]), event(call('{"a"'), [2]), event({}, [3]), event(call(": 1"), [4]),
        event(call("2}"), [5]), event({"content": ""}, [6], "tool_calls"),
    ):  # fmt: skip
        raw += machine.feed(one)
    raw += machine.on_engine_end(LossReason.EOF)
    calls = [one for delta in deltas(raw) for one in delta.get("tool_calls", ())]
    assert [one["id"] for one in calls if "id" in one] == ["call-1"]
    assert "".join(one["function"]["arguments"] for one in calls) == '{"a": 12}'
    assert machine.state is StreamState.COMPLETE
    restored = ChunkStream(machine.generation, "s")
    replay = replay_journal(restored, bytes(machine.journal), 0)
    assert [delta for delta in deltas(replay) if any(delta.values())] == [
        one for one in deltas(raw) if any(one.values())
    ]
    assert restored.state is StreamState.FINISHED


def test_reasoning_continues_and_is_never_taken_for_the_answer() -> None:
    machine, raw = lost_stream(event({}, [1]), event({"reasoning": "let "}, [2]), event({"reasoning": "me"}, [3]))
    assert orjson.loads(machine.request(("resume",)).body)["vllm_xargs"]["synkti_apart"] == 1
    for one in (
        role(), event({}, [1]), event({"reasoning": "let "}, [2]), event({"reasoning": "me"}, [3]),
        event({"reasoning": " see"}, [4]), event({}, [5]), event({"content": "yes"}, [6], "stop"),
    ):  # fmt: skip
        raw += machine.feed(one)
    assert "".join(delta.get("reasoning", "") for delta in deltas(raw)) == "let me see"
    assert text(raw) == "yes"


def test_a_stream_of_which_nothing_was_delivered_is_requested_anew() -> None:
    """A parser held the first ids: the next engine may generate others."""
    machine, raw = lost_stream(event({}, [1]), event({}, [2]))
    assert orjson.loads(machine.request(()).body) == {**BASE, "return_token_ids": True}
    for one in (role(), event({}, [8]), event({"reasoning": "so"}, [9]), event({"content": "a"}, [10], "stop")):
        raw += machine.feed(one)
    assert [delta for delta in deltas(raw) if any(delta.values())] == [
        {"role": "assistant", "content": ""}, {"reasoning": "so"}, {"content": "a"},
    ]  # fmt: skip
    assert machine.tokens == 3


@pytest.mark.parametrize("takeover", [False, True], ids=["engine", "entry"])
def test_reasoning_that_the_client_excluded_is_requested_and_hidden_here(takeover: bool) -> None:
    """An engine that omits reasoning omits its ids too, so that no stream could continue."""
    machine, raw = lost_stream(
        event({}, [1]), event({"reasoning": "so"}, [2]), event({"content": "a"}, [3]), include_reasoning=False
    )
    if takeover:
        journal = bytes(machine.journal)
        after, machine = machine.seq, ChunkStream(machine.generation, "s")
        replay_journal(machine, journal, after)
    body = orjson.loads(machine.request(("resume",)).body)
    assert body["include_reasoning"] is True
    assert body["vllm_xargs"]["synkti_resume_ids"] == [1, 2, 3]
    for one in (
        role(), event({}, [1]), event({"reasoning": "so"}, [2]), event({"content": "a"}, [3]),
        event({"content": "b"}, [4], "stop"),
    ):  # fmt: skip
        raw += machine.feed(one)
    assert text(raw) == "ab"
    assert b"reasoning" not in raw
    first = orjson.loads(generation(include_reasoning=False).engine_body())
    assert first["include_reasoning"] is True


@pytest.mark.parametrize(
    ("cut", "takeover"), [(1, False), (2, False), *((cut, entry) for cut in (3, 4, 5) for entry in (False, True))]
)
def test_hidden_reasoning_has_neither_ids_nor_logprobs_and_the_rest_has_both(cut: int, takeover: bool) -> None:
    """An engine that omits reasoning sends no ids at all. The fourth id is a partial character."""

    def scored_event(delta: dict[str, Any], token: int, reason: str | None = None) -> bytes:
        scored = {"content": [{"token": str(token), "logprob": -1.0, "top_logprobs": []}]}
        return event(delta, [token], reason).replace(b'"index":0', b'"index":0,"logprobs":%b' % orjson.dumps(scored))

    fields = {"include_reasoning": False, "return_token_ids": True, "logprobs": True}
    chunks = (
        scored_event({"reasoning": "so"}, 1),
        scored_event({}, 2),
        scored_event({"content": "a"}, 3),
        scored_event({}, 4),
        scored_event({"content": "b"}, 5),
        scored_event({"content": "c"}, 6, "stop"),
    )
    machine, raw = lost_stream(*chunks[:cut], **fields)
    first = orjson.loads(machine.generation.engine_body())
    assert (first["include_reasoning"], first["vllm_xargs"]) == (True, {"synkti_apart": 1})
    if takeover:
        journal = bytes(machine.journal)
        after, machine = machine.seq, ChunkStream(machine.generation, "s")
        replay_journal(machine, journal, after)
    body = orjson.loads(machine.request(("resume",)).body)
    resumed = {"synkti_resume_ids": list(range(1, cut + 1)), "synkti_apart": 1}
    assert (body["include_reasoning"], body["vllm_xargs"]) == (True, resumed)
    raw += b"".join(map(machine.feed, (role(), *chunks)))
    choices = [one for data in SseParser().feed(raw) for one in orjson.loads(data[1])["choices"]]
    assert text(raw) == "abc"
    assert b"reasoning" not in raw
    assert [token for one in choices for token in one.get("token_ids") or ()] == [3, 4, 5, 6]
    scored = [entry["token"] for one in choices for entry in (one.get("logprobs") or {}).get("content", ())]
    assert scored == ["3", "4", "5", "6"]


def test_half_a_character_at_the_start_is_rewound_with_its_ids_delivered() -> None:
    """Without a parser an engine sends an empty text for it."""
    machine, raw = lost_stream(event({"content": ""}, [1]), include_reasoning=False, return_token_ids=True, seed=None)
    assert machine.can_continue_on(())
    machine.request()
    for ids, content in (([1], ""), ([2], ""), ([3], "a")):
        choice = {"index": 0, "text": content, "token_ids": ids, "finish_reason": None}
        raw += machine.feed(b"data: %b\n\n" % orjson.dumps({"id": "e", "model": "m", "choices": [choice]}))
    choices = [one for data in SseParser().feed(raw) for one in orjson.loads(data[1])["choices"]]
    assert [token for one in choices for token in one.get("token_ids") or ()] == [1, 2, 3]
    assert text(raw) == "a"


def test_ids_that_were_delivered_without_text_are_resumed() -> None:
    machine, _ = lost_stream(event({}, [1]), temperature=0, return_token_ids=True)
    assert not machine.can_continue_on(())
    arguments = {"synkti_resume_ids": [1], "synkti_apart": 1}
    assert orjson.loads(machine.request(("resume",)).body)["vllm_xargs"] == arguments


def test_half_a_character_behind_a_text_is_no_reasoning() -> None:
    machine, _ = lost_stream(event({"content": "a"}, [1]), event({}, [2]), temperature=0, return_token_ids=True)
    assert machine.can_continue_on(())


def test_each_of_several_choices_continues_by_itself_with_its_seed() -> None:
    machine = ChunkStream(generation(n=2), "s")
    machine.request()
    for index, token in ((0, 1), (1, 2)):
        data = event({"content": "a"}, [token]).replace(b'"index":0', b'"index":%d' % index)
        machine.feed(role() if index == 0 else b"")
        machine.feed(data)
    machine.on_engine_end(LossReason.RESET)
    seeds = []
    for _ in range(2):
        body = orjson.loads(machine.request(("resume",)).body)
        seeds.append((body["seed"], body["vllm_xargs"]["synkti_resume_ids"], body.get("n")))
        machine.feed(role())
        machine.feed(event({"content": "ab"}, [*body["vllm_xargs"]["synkti_resume_ids"], 9], "stop"))
    assert seeds == [(5, [1], None), (6, [2], None)]
    assert machine.state is StreamState.FINISHED


def test_a_choice_that_ended_without_a_text_is_not_requested_again() -> None:
    machine = ChunkStream(generation(n=2), "s")
    machine.request()
    machine.feed(role())
    machine.feed(event({"content": ""}, [1], "stop"))
    machine.on_engine_end(LossReason.RESET)
    assert machine.request(("resume",)).body != generation(n=2).engine_body()


def test_an_engine_without_ids_cannot_be_continued_from() -> None:
    machine, _ = lost_stream(event({"content": "a"}))
    with pytest.raises(ContinuationImpossible, match="no token ids"):
        machine.request(("resume",))
    assert not machine.can_continue_on(("resume", "forced"))


def test_the_clients_own_arguments_are_sent_to_each_engine() -> None:
    theirs = {"fresh": 3, "synkti_resume_ids": [9]}
    machine, _ = lost_stream(event({"content": "a"}, [1]), event({"content": "b"}, [2]), vllm_xargs=theirs)
    assert not machine.can_continue_on(())
    assert orjson.loads(machine.request(("resume",)).body)["vllm_xargs"] == {"fresh": 3, "synkti_resume_ids": [1, 2]}
    machine.on_engine_end(LossReason.RESET)
    assert orjson.loads(machine.request(("forced",)).body)["vllm_xargs"] == {"fresh": 3, "synkti_forced_ids": [1, 2]}


SMUGGLED: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda extra: {"vllm_xargs": extra},
    lambda extra: {"vllm_xargs": {**extra, "theirs": 1}},
]


@pytest.mark.parametrize("smuggle", SMUGGLED)
@pytest.mark.parametrize("name", ["synkti_resume_ids", "synkti_forced_ids", "synkti_apart", "synkti_later"])
def test_no_client_can_send_a_synkti_argument_to_an_engine(
    name: str, smuggle: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    smuggled = smuggle({name: [10**9]})
    kept = {"theirs": 1} if "theirs" in smuggled["vllm_xargs"] else {}
    request = generation(**smuggled)
    assert orjson.loads(request.engine_body())["vllm_xargs"] == kept
    raw = orjson.dumps({**BASE, **smuggled}).replace(b"synkti", b"\\u0073ynkti")
    assert orjson.loads(read_body(raw).to_bytes()) == {**BASE, "vllm_xargs": kept}
    batch = orjson.dumps({"requests": [{**BASE, **smuggled}, BASE]})
    assert orjson.loads(read_body(batch).to_bytes()) == {"requests": [{**BASE, "vllm_xargs": kept}, BASE]}


def test_nesting_hides_no_synkti_argument_and_does_not_end_the_node() -> None:
    smuggled = orjson.dumps({"vllm_xargs": {"synkti_apart": 1}})
    for levels in (200, 800):
        assert b"synkti" not in read_body(b'{"a":' * levels + smuggled + b"}" * levels).to_bytes()
    with pytest.raises(RequestRejected, match="too deep"):
        read_body(b'{"a":' * 1_010 + smuggled + b"}" * 1_010).to_bytes()


@pytest.mark.parametrize("raw", [b"7", b'{"vllm_xargs":7}', b'{"vllm_xargs":{"theirs":[1]}}'])
def test_a_body_without_synkti_arguments_is_passed_on_unchanged(raw: bytes) -> None:
    assert read_body(raw).to_bytes() == raw


@pytest.mark.parametrize("methods", [(), ("resume",)], ids=["reprompt", "resume"])
def test_a_usage_keeps_its_details_where_another_engine_continues(methods: tuple[str, ...]) -> None:
    state = {} if methods else {"seed": None}
    machine = ChunkStream(generation(stream_options={"include_usage": True}, **state), "s")
    machine.request()
    machine.feed(role() + event({"content": "a"}, [1]))
    machine.on_engine_end(LossReason.RESET)
    body = orjson.loads(machine.request(methods).body)
    assert body["stream_options"] == {"include_usage": True}
    if methods:
        machine.feed(role() + event({"content": "a"}, [1]) + event({"content": "b"}, [2], "stop"))
    else:
        ended = {"index": 0, "text": "b", "token_ids": [2], "finish_reason": "stop"}
        machine.feed(b"data: %b\n\n" % orjson.dumps({"id": "c", "choices": [ended]}))
    details = {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 0}}
    engine_usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4, **details}
    out = machine.feed(
        b"data: %b\n\n" % orjson.dumps({"id": "c", "choices": [], "usage": engine_usage}) + b"data: [DONE]\n\n"
    )
    usage = next(orjson.loads(data)["usage"] for _, data in SseParser().feed(out) if data != b"[DONE]")
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 2, 4)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}, "no more than the prompt has"
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_what_an_engine_sends_after_the_finish_reason_of_a_continued_choice_is_ignored() -> None:
    machine, raw = lost_stream(event({"content": "a"}, [1]))
    machine.request(("resume",))
    raw += machine.feed(event({"content": "ab"}, [1, 2], "stop"))
    assert machine.state is StreamState.FINISHED
    assert machine.feed(event({"content": "c"}, [3]) + event({"content": "d"}, [4], "length")) == b""
    assert machine.state is StreamState.FINISHED
    raw += machine.feed(b"data: [DONE]\n\n")
    assert (machine.state, text(raw), machine.tokens) == (StreamState.COMPLETE, "ab", 2)
