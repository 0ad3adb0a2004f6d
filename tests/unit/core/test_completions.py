"""What comes in as a request: read once, or refused with words."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.contract.errors import RequestRejected
from node_agent.core.completions import MAX_DEPTH, Kind, read_generation
from node_agent.core.echo import is_unknown
from node_agent.core.epochs import Epoch, Run
from node_agent.core.opening import Opening, read_opening

BODY: dict[str, Any] = {"model": "m", "prompt": "p", "stream": True}


def nested(levels: int) -> bytes:
    """A request of that depth, by what an engine would ignore."""
    inside = b"[" * (levels - 1) + b"]" * (levels - 1)
    return b'{"model":"m","prompt":"p","stream":true,"metadata":' + inside + b"}"


def test_a_request_as_deep_as_may_be_goes_all_the_way() -> None:
    generation = read_generation(Kind.COMPLETION, nested(MAX_DEPTH))
    assert orjson.loads(generation.engine_body())["prompt"] == "p"
    opening = Opening(generation, (Run(0, Epoch(1, "i-1")),), None)
    assert read_opening(opening.to_bytes()).generation == generation


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 300, 1_000, 100_000])
def test_a_deeper_one_is_refused_with_words(levels: int) -> None:
    with pytest.raises(RequestRejected, match=r"nested deeper than 200 levels|not valid JSON") as refused:
        read_generation(Kind.COMPLETION, nested(levels))
    assert refused.value.status == 400


def test_many_brackets_are_no_depth() -> None:
    wide = {**BODY, "metadata": [{"a": []}] * 2_000}
    assert read_generation(Kind.COMPLETION, orjson.dumps(wide)).body == wide


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["model", "prompt", "messages", "stream", "n", "stop", "max_tokens", "stream_options", "echo", "logprobs", "seed"]
)


@given(st.sampled_from(Kind), st.dictionaries(FIELDS, JSON, max_size=6))
def test_whatever_a_client_sends_is_read_or_refused(kind: Kind, fields: dict[str, Any]) -> None:
    raw = orjson.dumps({"model": "m", "prompt": "p", "messages": [], **fields})
    with contextlib.suppress(RequestRejected):  # any other exception is a bug
        assert orjson.loads(read_generation(kind, raw).engine_body())["model"] == fields.get("model", "m")


@pytest.mark.parametrize(
    ("kind", "fields", "limit"),
    [
        (Kind.COMPLETION, {}, 16),
        (
            Kind.COMPLETION,
            {"max_tokens": None},
            16,
        ),  # not the rest of the context: vLLM 0.32 takes null for its default
        (Kind.COMPLETION, {"max_tokens": 0}, 0),
        (Kind.CHAT, {}, None),
        (Kind.CHAT, {"max_tokens": None}, None),
        (Kind.CHAT, {"max_tokens": 5, "max_completion_tokens": None}, 5),
        (Kind.CHAT, {"max_tokens": 5, "max_completion_tokens": 4}, 4),
    ],
)
def test_the_limit_is_what_vllm_takes_it_for(kind: Kind, fields: dict[str, Any], limit: int | None) -> None:
    assert read_generation(kind, orjson.dumps({**BODY, "messages": [], **fields})).max_tokens == limit


@pytest.mark.parametrize(
    ("fields", "echo"),
    [
        ({}, "p"),
        ({"logprobs": 1}, "p"),
        ({"return_token_ids": True}, ""),  # vLLM tells ids or text
        ({"max_tokens": 0}, ""),  # the engine tells it
        ({"stream": False}, ""),
        ({"prompt": [1, 2]}, "?"),
        ({"truncate_prompt_tokens": 4}, "?"),
    ],
    ids=str,
)
def test_an_echo_is_put_before_the_answer_where_the_engine_leaves_it_out(fields: dict[str, Any], echo: str) -> None:
    asked = read_generation(Kind.COMPLETION, orjson.dumps({**BODY, "echo": True, **fields}))
    assert is_unknown(asked) is (echo == "?")
    assert echo == "?" or asked.echo(0) == echo


@pytest.mark.parametrize("ids", [True, False])
def test_where_calls_may_be_parsed_the_engine_is_asked_to_tell_ids_apart(ids: bool) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    body = {"model": "m", "messages": [], "stream": True, "return_token_ids": ids, "vllm_xargs": {"mine": 1}}
    asked = read_generation(Kind.CHAT, orjson.dumps({**body, "tools": tools}))
    assert orjson.loads(asked.engine_body())["vllm_xargs"] == {"mine": 1, "synkti_apart": 1}
    for plain in (body, {**body, "tools": tools, "tool_choice": "none"}):
        sent = orjson.loads(read_generation(Kind.CHAT, orjson.dumps(plain)).engine_body())
        assert sent["vllm_xargs"] == {"mine": 1}
