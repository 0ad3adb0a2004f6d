"""Fields that vLLM rejects in a stream or ignores, and answers in one chunk: why these need no continuation rule."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from node_agent.core.openai.generation_request import ApiRoute, read_generation
from tests.contract.continuation_runner import ContinuationRunner, CutPoint, generation_of, outputs_of
from tests.contract.rows import GREEDY, Row
from tests.engines import MODEL, Engine

pytestmark = [pytest.mark.vllm, pytest.mark.parametrize("plugged", ["plain"], indirect=True)]
BODY = {"model": MODEL, "temperature": 0, "max_tokens": 12, "ignore_eos": True, "stream": True}
PROMPTS: dict[ApiRoute, dict[str, Any]] = {
    ApiRoute.CHAT: {"messages": [{"role": "user", "content": "Tell me a long story."}]},
    ApiRoute.COMPLETION: {"prompt": "It was a dark night"},
}
ROUTES = pytest.mark.parametrize("kind", PROMPTS, ids=lambda kind: kind.name.lower())


def post(engine: Engine, kind: ApiRoute, **fields: Any) -> httpx.Response:
    return httpx.post(engine.url + kind.value, json={**BODY, **PROMPTS[kind], **fields}, timeout=120)


def outputs(engine: Engine, kind: ApiRoute, **fields: Any) -> dict[int, tuple[Any, ...]]:
    response = post(engine, kind, **fields)
    assert response.status_code == 200, response.text
    return outputs_of(response.content)


@ROUTES
@pytest.mark.parametrize("number", [1, -1])
def test_logprobs_of_a_prompt_cannot_be_streamed(plugged: Engine, kind: ApiRoute, number: int) -> None:
    refused = post(plugged, kind, prompt_logprobs=number)
    assert refused.status_code == 400
    assert "not available when `stream=True`" in refused.text


@ROUTES
@pytest.mark.parametrize("fields", [{"prompt_logprobs": 0}, {"logits_processors": ["x"]}], ids=str)
def test_fields_that_vllm_ignores_change_no_output(plugged: Engine, kind: ApiRoute, fields: dict[str, Any]) -> None:
    """No prompt logprobs are requested; and a field of earlier versions, which this version does not read."""
    assert outputs(plugged, kind, **fields) == outputs(plugged, kind)


@ROUTES
def test_arguments_that_no_processor_reads_are_ignored(plugged: Engine, kind: ApiRoute) -> None:
    assert outputs(plugged, kind, vllm_xargs={"nobody": "reads this"}) == outputs(plugged, kind)


def test_a_beam_search_is_streamed_only_in_a_chat_and_in_one_chunk_per_choice(plugged: Engine) -> None:
    refused = post(plugged, ApiRoute.COMPLETION, use_beam_search=True, n=2)
    assert refused.status_code == 400
    assert "beam search" in refused.text
    generation = generation_of(Row("beam", "", {**GREEDY, "use_beam_search": True, "n": 3, "max_tokens": 12}))
    runner = ContinuationRunner(plugged, generation)
    right = runner.whole()
    assert runner.events >= 2 * generation.choices  # a role and an answer for each choice, and the end
    for events in range(
        generation.choices + 1, 2 * generation.choices
    ):  # some choices have their answer, and others none
        for entry in (False, True):
            assert outputs_of(runner.cut(CutPoint(events, entry=entry), supported=())) == outputs_of(right)


def test_an_echoed_prompt_without_an_answer_is_one_chunk(plugged: Engine) -> None:
    fields = {"echo": True, "max_tokens": 0, "logprobs": 1, "prompt": ["It was", "a dark night", [300, 257]][:2]}
    generation = generation_of(Row("none", "", {**fields, "return_token_ids": False}, kind=ApiRoute.COMPLETION))
    runner = ContinuationRunner(plugged, generation)
    right = outputs_of(runner.direct())
    assert [right[index][0] for index in (0, 1)] == ["It was", "a dark night"]
    assert outputs_of(runner.whole()) == right
    assert (
        outputs_of(runner.cut(CutPoint(1), supported=()))
        == outputs_of(runner.cut(CutPoint(1, entry=True), supported=()))
        == right
    )


def test_a_completion_has_16_tokens_without_a_limit_and_else_up_to_the_context(plugged: Engine) -> None:
    """A reprompted chat without a limit is therefore sent in segments, each as long as all tokens before it."""
    for none in ({}, {"max_tokens": None}):
        body = {key: value for key, value in BODY.items() if key not in ("stream", "max_tokens")}
        whole = httpx.post(
            plugged.url + ApiRoute.COMPLETION.value, json={**body, **PROMPTS[ApiRoute.COMPLETION], **none}, timeout=120
        )
        assert whole.json()["usage"]["completion_tokens"] == 16
    ids = [300, 257] * 1200  # more than half of the context of 4096
    rest = outputs(plugged, ApiRoute.COMPLETION, prompt=ids, max_tokens=len(ids), return_token_ids=True)
    assert len(rest[0][3]) == 4096 - len(ids)
    assert rest[0][4] == ["length"]


def test_the_token_limit_read_from_a_request_is_the_one_the_engine_applies(plugged: Engine) -> None:
    fields = {"max_completion_tokens": None, "max_tokens": 5, "return_token_ids": True}
    generation = read_generation(
        ApiRoute.CHAT, httpx.Request("POST", "/", json={**BODY, **PROMPTS[ApiRoute.CHAT], **fields}).read()
    )
    assert generation.max_tokens == len(outputs(plugged, ApiRoute.CHAT, **fields)[0][3])
