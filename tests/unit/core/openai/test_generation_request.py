"""Generation requests: parsed once, or rejected with a message."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import RequestRejected
from node_agent.core.journal.epochs import Epoch, EpochRange
from node_agent.core.journal.stream_header import StreamHeader, parse_stream_header
from node_agent.core.openai.generation_request import (
    MAX_CHOICES,
    ApiRoute,
    PassThroughRequest,
    parse_generation,
    read_generation,
)
from node_agent.core.openai.prompt_echo import needs_prompt_texts
from node_agent.core.openai.request_body import MAX_DEPTH, read_body

BODY: dict[str, Any] = {"model": "m", "prompt": "p", "stream": True}


def nested(levels: int) -> bytes:
    """Build a request of that depth, with a field that engines ignore."""
    inside = b"[" * (levels - 1) + b"]" * (levels - 1)
    return b'{"model":"m","prompt":"p","stream":true,"metadata":' + inside + b"}"


def test_a_request_at_the_bound_of_depth_is_accepted() -> None:
    generation = read_generation(ApiRoute.COMPLETION, nested(MAX_DEPTH))
    assert orjson.loads(generation.engine_body())["prompt"] == "p"
    header = StreamHeader(generation, (EpochRange(0, Epoch(1, "i-1")),), None)
    assert parse_stream_header(header.to_bytes()).generation == generation


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 300])
def test_a_deeper_one_is_passed_on_and_not_continued(levels: int) -> None:
    body = read_body(nested(levels))
    with pytest.raises(PassThroughRequest):
        parse_generation(ApiRoute.COMPLETION, body)
    assert orjson.loads(body.to_bytes()) == orjson.loads(nested(levels))


@pytest.mark.parametrize("levels", [1_010, 100_000])
def test_a_request_that_cannot_be_written_again_is_refused_with_a_reason(levels: int) -> None:
    with pytest.raises(RequestRejected, match=r"cannot be read|nested too deep") as refused:
        read_body(nested(levels)).to_bytes()
    assert refused.value.status == 400


def test_many_brackets_are_no_depth() -> None:
    wide = {**BODY, "metadata": [{"a": []}] * 2_000}
    assert read_generation(ApiRoute.COMPLETION, orjson.dumps(wide)).body == wide


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["model", "prompt", "messages", "stream", "n", "stop", "max_tokens", "stream_options", "echo", "logprobs", "seed"]
)


@given(st.sampled_from(ApiRoute), st.dictionaries(FIELDS, JSON, max_size=6))
def test_any_body_is_read_or_refused(route: ApiRoute, fields: dict[str, Any]) -> None:
    raw = orjson.dumps({"model": "m", "prompt": "p", "messages": [], **fields})
    with contextlib.suppress(RequestRejected, PassThroughRequest):  # any other exception is a bug
        assert orjson.loads(read_generation(route, raw).engine_body())["model"] == fields.get("model", "m")


@pytest.mark.parametrize(
    ("route", "fields", "limit"),
    [
        (ApiRoute.COMPLETION, {}, 16),
        (
            ApiRoute.COMPLETION,
            {"max_tokens": None},
            16,
        ),  # not the rest of the context: vLLM 0.32 reads null as its default
        (ApiRoute.COMPLETION, {"max_tokens": 0}, 0),
        (ApiRoute.CHAT, {}, None),
        (ApiRoute.CHAT, {"max_tokens": None}, None),
        (ApiRoute.CHAT, {"max_tokens": 5, "max_completion_tokens": None}, 5),
        (ApiRoute.CHAT, {"max_tokens": 5, "max_completion_tokens": 4}, 4),
    ],
)
def test_a_limit_is_read_as_vllm_reads_it(route: ApiRoute, fields: dict[str, Any], limit: int | None) -> None:
    assert read_generation(route, orjson.dumps({**BODY, "messages": [], **fields})).max_tokens == limit


@pytest.mark.parametrize(
    ("fields", "echo"),
    [
        ({}, "p"),
        ({"logprobs": 1}, "p"),
        ({"return_token_ids": True}, ""),  # vLLM sends ids or text
        ({"max_tokens": 0}, ""),  # the engine sends it
        ({"stream": False}, ""),
        ({"prompt": [1, 2]}, "?"),
        ({"truncate_prompt_tokens": 4}, "?"),
    ],
    ids=str,
)
def test_an_echo_is_put_before_the_answer_if_the_engine_omits_it(fields: dict[str, Any], echo: str) -> None:
    request = read_generation(ApiRoute.COMPLETION, orjson.dumps({**BODY, "echo": True, **fields}))
    assert needs_prompt_texts(request) is (echo == "?")
    assert echo == "?" or request.echo(0) == echo


@pytest.mark.parametrize("ids", [True, False])
def test_the_engine_marks_ids_apart_where_tool_calls_may_be_parsed(ids: bool) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    body = {"model": "m", "messages": [], "stream": True, "return_token_ids": ids, "vllm_xargs": {"mine": 1}}
    request = read_generation(ApiRoute.CHAT, orjson.dumps({**body, "tools": tools}))
    assert orjson.loads(request.engine_body())["vllm_xargs"] == {"mine": 1, "synkti_apart": 1}
    for plain in (body, {**body, "tools": tools, "tool_choice": "none"}):
        sent = orjson.loads(read_generation(ApiRoute.CHAT, orjson.dumps(plain)).engine_body())
        assert sent["vllm_xargs"] == {"mine": 1}


def test_a_temperature_in_a_string_is_a_number() -> None:
    request = read_generation(ApiRoute.COMPLETION, orjson.dumps({**BODY, "temperature": "0"}))
    assert request.body["temperature"] == 0
    assert request.original_body["temperature"] == "0"


TRUE, FALSE = (True, "true", "Yes", "on", "t", 1, 1.0, "1"), (False, "false", "NO", "off", "f", 0, 0.0, "0", None)


@pytest.mark.parametrize("route", [ApiRoute.CHAT, ApiRoute.COMPLETION, ApiRoute.RESPONSES, ApiRoute.MESSAGES])
def test_a_boolean_is_read_as_the_engine_reads_it(route: ApiRoute) -> None:
    body = {**BODY, "messages": [], "input": "i", "max_tokens": 5}
    for expected, words in ((True, TRUE), (False, FALSE)):
        for word in words:
            request = read_generation(route, orjson.dumps({**body, "stream": word}))
            assert request.streaming is expected, word
            assert request.original_body["stream"] == word
    others: list[Any] = ["", "maybe", 2, [], {}]
    for other in others:
        with pytest.raises(PassThroughRequest):
            read_generation(route, orjson.dumps({**body, "stream": other}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"echo": "false"}, {"prepends_prompt": False}),
        ({"echo": "yes"}, {"prepends_prompt": True, "echoes": ("p",)}),
        ({"stream_options": {"include_usage": "no"}}, {"wants_usage": False}),
        ({"stream_options": {"include_usage": "t", "continuous_usage_stats": 1}}, {"wants_running_usage": True}),
        ({"max_tokens": 3.0}, {"max_tokens": 3}),
        ({"max_tokens": "3"}, {"max_tokens": 3}),
        ({"n": "2"}, {"choices": 2}),
        ({"n": 2.0, "prompt": ["a", "b"]}, {"choices": 4}),
        ({"prompt": [1.0, 2]}, {"choices": 1}),
        ({"logprobs": "0"}, {"wants_logprobs": True}),
        ({"return_token_ids": "false"}, {"wants_ids": False}),
        ({"use_beam_search": "false"}, {"single_chunk": False}),
        ({"stop": ["abc"], "include_stop_str_in_output": "off"}, {"stop_holdback_chars": 2}),
    ],
    ids=str,
)
def test_a_field_is_read_as_the_engine_reads_it(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    request = read_generation(ApiRoute.COMPLETION, orjson.dumps({**BODY, **fields}))
    assert {name: getattr(request, name) for name in expected} == expected
    header = StreamHeader(request, (EpochRange(0, Epoch(1, "i-1")),), None)
    assert parse_stream_header(header.to_bytes()).generation == request
    sent = orjson.loads(request.engine_body())
    assert all(sent[name] == value for name, value in fields.items() if name in sent and name != "return_token_ids")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": "two"},
        {"n": 0},
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"prompt": None},
        {"prompt": ["a", 1]},
        {"stop": 5},
        {"stop": [1]},
        {"stream_options": "yes"},
        {"stream_options": {"include_usage": []}},
        {"model": 5},
        {"model": None},
        {"prompt_embeds": "x"},
        {"vllm_xargs": "x"},
        {"vllm_xargs": [1]},
        {"include": 5},
    ],
    ids=str,
)
def test_fields_that_only_an_engine_understands_are_left_to_it(fields: dict[str, Any]) -> None:
    with pytest.raises(PassThroughRequest):
        read_generation(ApiRoute.COMPLETION, orjson.dumps({**BODY, **fields}))


@pytest.mark.parametrize(
    ("n", "prompts", "param"), [(MAX_CHOICES + 1, 1, "n"), (64, 17, "n"), (1, MAX_CHOICES + 1, "prompt")]
)
def test_prompts_and_choices_are_bounded_together(n: int, prompts: int, param: str) -> None:
    body = {**BODY, "n": n, "prompt": ["p"] * prompts if prompts > 1 else "p"}
    with pytest.raises(RequestRejected, match=f"may ask for {MAX_CHOICES} answers") as refused:
        read_generation(ApiRoute.COMPLETION, orjson.dumps(body))
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_thousand_prompts_are_as_many_as_an_engine_takes() -> None:
    assert (
        read_generation(ApiRoute.COMPLETION, orjson.dumps({**BODY, "prompt": ["p"] * MAX_CHOICES})).choices
        == MAX_CHOICES
    )
