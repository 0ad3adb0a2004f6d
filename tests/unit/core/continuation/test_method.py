"""Which continuation method is chosen, and why."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.method import ContinuationMethod, choose_method
from node_agent.core.node.status import CONTINUATION_METHODS
from node_agent.core.openai.generation_request import ApiRoute, GenerationRequest, read_generation

BOTH = ("resume", "forced")
STATEFUL: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {}}},
    {"structured_outputs": {"regex": "a+"}},
    {"guided_json": {"type": "object"}},
    {"seed": 1},
    {"frequency_penalty": 0.1},
    {"presence_penalty": -0.1},
    {"bad_words": ["no"]},
    {"repetition_detection": {"max_pattern_size": 4, "min_count": 3}},
    {"thinking_token_budget": 100},
    {"tools": [{"type": "function"}]},
    {"vllm_xargs": {"theirs": 1}},
]
PLAIN: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0, "seed": 7},
    {"response_format": {"type": "text"}},
    {"tools": [{"type": "function"}], "tool_choice": "none"},
    {"frequency_penalty": 0, "bad_words": []},
    {"logit_bias": {"5": 1}, "stop": ["x"], "repetition_penalty": 1.2},
    {"temperature": 0, "stop": ["two"], "return_token_ids": True},
    {"temperature": 0, "vllm_xargs": {}},
    {"temperature": 0, "prompt_logprobs": 0, "logits_processors": ["what vLLM ignores"], "echo": True},
]


def generation(**fields: Any) -> GenerationRequest:
    body = {"model": "m", "messages": [], "stream": True, "max_tokens": 9, **fields}
    return read_generation(ApiRoute.CHAT, orjson.dumps(body))


@pytest.mark.parametrize("fields", PLAIN, ids=str)
def test_a_stream_whose_state_is_its_ids_is_reprompted_anywhere(fields: dict[str, Any]) -> None:
    for supported in ((), BOTH):
        assert choose_method(generation(**fields), supported, only_text=True).method is ContinuationMethod.REPROMPT


@pytest.mark.parametrize("fields", STATEFUL, ids=str)
def test_a_stream_with_other_state_is_resumed_else_forced_else_impossible(fields: dict[str, Any]) -> None:
    request = generation(**fields)
    resumed = choose_method(request, BOTH, only_text=True)
    forced = choose_method(request, ("forced",), only_text=True)
    assert (resumed.method, forced.method) == (ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING)
    assert resumed.reason in forced.reason
    assert next(iter(fields)).split("_")[0][:4] in resumed.reason or "structured" in resumed.reason
    with pytest.raises(ContinuationImpossible, match=resumed.reason.split(":")[0]):
        choose_method(request, ("some-later-way",), only_text=True)


def test_reasoning_and_tool_calls_are_state_although_no_field_names_them() -> None:
    assert choose_method(generation(), BOTH, only_text=False).method is ContinuationMethod.RESUME
    with pytest.raises(ContinuationImpossible, match="reasoning or tool calls"):
        choose_method(generation(), (), only_text=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True},
        {"return_token_ids": True},
        {"stop": ["two"], "temperature": 0.7},
        {"temperature": 0, "max_tokens": None},
    ],
    ids=str,
)
def test_a_stream_that_a_reprompt_only_approximates_is_resumed_where_possible(fields: dict[str, Any]) -> None:
    methods = [
        choose_method(generation(**fields), supported, only_text=True).method for supported in (BOTH, ("forced",), ())
    ]
    assert methods == [ContinuationMethod.RESUME, ContinuationMethod.REPROMPT, ContinuationMethod.REPROMPT]


def test_text_that_a_reprompt_would_sample_again_is_resumed_where_possible() -> None:
    request = generation(temperature=1.0)
    methods = [
        choose_method(request, supported, only_text=True, redraws=True).method for supported in (BOTH, ("forced",), ())
    ]
    assert methods == [ContinuationMethod.RESUME, ContinuationMethod.REPROMPT, ContinuationMethod.REPROMPT]


def test_methods_are_advertised_under_their_own_names() -> None:
    assert (ContinuationMethod.RESUME.value, ContinuationMethod.FORCED_DECODING.value) == CONTINUATION_METHODS
