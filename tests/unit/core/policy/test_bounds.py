"""The counts and sizes of a request: each bound with its message, and nothing below it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from node_agent.contract.errors import RequestRejected
from node_agent.core.policy.bounds import RequestBounds, check_counts, check_prompt, max_prompt_chars

CHAT, TEXT, BATCH, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/chat/completions/batch", "/v1/embeddings"
SMALL = RequestBounds(
    max_choices=4, max_inputs=3, max_messages=3, max_tools=2, max_stop_strings=2, max_stop_chars=5,
    max_stop_token_ids=2, max_logit_bias=2, max_logprobs=3, max_token_ids=2, max_bad_words=3,
)  # fmt: skip
TURN = {"role": "user", "content": "a"}

BEYOND: tuple[tuple[str, dict[str, Any], str], ...] = (
    (CHAT, {"n": 5}, "SYNKTI_MAX_CHOICES"),
    (CHAT, {"n": "5"}, "n=5"),
    (CHAT, {"n": 5.0}, "n=5"),
    (TEXT, {"prompt": ["a"] * 5}, "5 prompts with n=1"),
    (TEXT, {"prompt": [[1], [2], [3]], "n": 2}, "3 prompts with n=2"),
    (BATCH, {"messages": [[TURN]] * 5}, "5 conversations with n=1"),
    (BATCH, {"messages": [[TURN]], "best_of": 5}, "n=5"),
    (BATCH, {"messages": [[TURN] * 4]}, "SYNKTI_MAX_MESSAGES"),
    (CHAT, {"messages": [TURN] * 4}, "SYNKTI_MAX_MESSAGES"),
    ("/v1/responses", {"input": [TURN] * 4}, "SYNKTI_MAX_MESSAGES"),
    ("/tokenize", {"messages": [TURN] * 4}, "SYNKTI_MAX_MESSAGES"),
    (CHAT, {"tools": [{}] * 3}, "SYNKTI_MAX_TOOLS"),
    (CHAT, {"stop": ["a"] * 3}, "SYNKTI_MAX_STOP_STRINGS"),
    (CHAT, {"stop": "abcdef"}, "SYNKTI_MAX_STOP_CHARS"),
    ("/v1/messages", {"stop_sequences": ["abcdef"]}, "SYNKTI_MAX_STOP_CHARS"),
    (CHAT, {"stop_token_ids": [1, 2, 3]}, "SYNKTI_MAX_STOP_TOKEN_IDS"),
    (CHAT, {"logit_bias": {"1": 1, "2": 1, "3": 1}}, "SYNKTI_MAX_LOGIT_BIAS"),
    (CHAT, {"top_logprobs": 4}, "SYNKTI_MAX_LOGPROBS"),
    (TEXT, {"logprobs": 4}, "SYNKTI_MAX_LOGPROBS"),
    (TEXT, {"logprobs": -1}, "all of the vocabulary"),
    (TEXT, {"prompt_logprobs": "4"}, "SYNKTI_MAX_LOGPROBS"),
    (CHAT, {"allowed_token_ids": [1, 2, 3]}, "SYNKTI_MAX_TOKEN_IDS"),
    (CHAT, {"logprob_token_ids": [1, 2, 3]}, "SYNKTI_MAX_TOKEN_IDS"),
    (CHAT, {"bad_words": ["a"] * 4}, "SYNKTI_MAX_BAD_WORDS"),
    (CHAT, {"bad_words": ["abcd"]}, "SYNKTI_MAX_BAD_WORDS"),
    (EMBED, {"input": ["a"] * 4}, "SYNKTI_MAX_INPUTS"),
    ("/rerank", {"documents": ["a"] * 4}, "SYNKTI_MAX_INPUTS"),
    ("/v1/systemone", {"questions": {key: {} for key in "abcd"}}, "SYNKTI_MAX_INPUTS"),
)
WITHIN: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"n": 4, "messages": [TURN] * 3, "tools": [{}] * 2, "stop": ["a", "b"], "logprobs": True}),
    (CHAT, {"top_logprobs": 3, "logit_bias": {"1": 1}, "bad_words": ["abc"]}),
    (TEXT, {"prompt": [1, 2, 3, 4, 5, 6], "n": 4}),
    (TEXT, {"prompt": ["a", "b"], "n": 2, "logprobs": 0}),
    (EMBED, {"input": [1, 2, 3, 4, 5, 6]}),
    (EMBED, {"input": ["a"] * 3}),
)
ODD: tuple[Any, ...] = (None, True, "x", "", 5.5, [], {}, [None], [[]], {"a": None}, 0, 1e400)


@pytest.mark.parametrize(("path", "body", "expected"), BEYOND, ids=str)
def test_more_than_a_bound_is_refused_with_limit_value_and_setting(
    path: str, body: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RequestRejected) as refused:
        check_counts(path, body, SMALL)
    assert expected in str(refused.value)
    assert (refused.value.status, refused.value.code) == (400, "limit_exceeded")
    assert refused.value.param in body
    if body.get("logprobs") != -1:
        check_counts(path, body, RequestBounds())


@pytest.mark.parametrize(("path", "body"), WITHIN, ids=str)
def test_what_is_within_the_bounds_passes(path: str, body: dict[str, Any]) -> None:
    check_counts(path, body, SMALL)


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_values_of_other_types_are_left_to_the_engine(value: object) -> None:
    names = ("n", "prompt", "messages", "input", "tools", "stop", "logprobs", "logit_bias", "bad_words", "best_of")
    for path in (CHAT, TEXT, BATCH, EMBED):
        for name in names:
            check_counts(path, {name: value}, replace(SMALL, max_choices=1_000))


@pytest.mark.parametrize(
    ("body", "media", "is_long"),
    [
        ({"prompt": "a" * 70_000}, 0, True),
        ({"prompt": ["a" * 40_000] * 2}, 0, False),
        ({"prompt": ["a", "a" * 70_000]}, 0, True),
        ({"messages": [{"content": "a" * 40_000}] * 2}, 0, True),
        ({"messages": [{"content": "a" * 70_000}]}, 60_000, False),
        ({"system": "a" * 70_000, "messages": []}, 0, True),
        ({"tools": [{"function": {"description": "a" * 70_000}}]}, 0, True),
        ({"documents": ["a" * 40_000] * 9}, 0, False),
        ({"documents": ["a" * 70_000]}, 0, True),
        ({"input": [1] * 70_000}, 0, False),
    ],
)
def test_a_prompt_far_beyond_the_context_is_refused(body: dict[str, Any], media: int, *, is_long: bool) -> None:
    check_prompt(body, 60_000, media, 4_096, RequestBounds())  # a body of that size is not looked at
    if not is_long:
        check_prompt(body, 100_000, media, 4_096, RequestBounds())
        return
    with pytest.raises(RequestRejected, match=r"4096 tokens takes; up to 65536 are processed .SYNKTI_MAX_CHARS"):
        check_prompt(body, 100_000, media, 4_096, RequestBounds())


def test_the_bound_of_a_prompt_grows_with_the_context() -> None:
    assert max_prompt_chars(100_000, RequestBounds()) == 800_000
    assert max_prompt_chars(None, RequestBounds()) == 1024 * 1024
