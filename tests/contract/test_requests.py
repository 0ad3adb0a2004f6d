"""What no stream can ask for, what is ignored, and what comes in one piece: why no rule for these is needed."""

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
ASKED: dict[ApiRoute, dict[str, Any]] = {
    ApiRoute.CHAT: {"messages": [{"role": "user", "content": "Tell me a long story."}]},
    ApiRoute.COMPLETION: {"prompt": "It was a dark night"},
}
KINDS = pytest.mark.parametrize("kind", ASKED, ids=lambda kind: kind.name.lower())


def post(engine: Engine, kind: ApiRoute, **fields: Any) -> httpx.Response:
    return httpx.post(engine.url + kind.value, json={**BODY, **ASKED[kind], **fields}, timeout=120)


def told(engine: Engine, kind: ApiRoute, **fields: Any) -> dict[int, tuple[Any, ...]]:
    response = post(engine, kind, **fields)
    assert response.status_code == 200, response.text
    return outputs_of(response.content)


@KINDS
@pytest.mark.parametrize("number", [1, -1])
def test_logprobs_of_a_prompt_cannot_be_streamed(plugged: Engine, kind: ApiRoute, number: int) -> None:
    refused = post(plugged, kind, prompt_logprobs=number)
    assert refused.status_code == 400
    assert "not available when `stream=True`" in refused.text


@KINDS
@pytest.mark.parametrize("fields", [{"prompt_logprobs": 0}, {"logits_processors": ["x"]}], ids=str)
def test_what_is_not_refused_and_changes_nothing(plugged: Engine, kind: ApiRoute, fields: dict[str, Any]) -> None:
    """None of the prompt's; and a field of earlier versions, which an engine of this one does not read."""
    assert told(plugged, kind, **fields) == told(plugged, kind)


@KINDS
def test_arguments_that_no_processor_reads_are_ignored(plugged: Engine, kind: ApiRoute) -> None:
    assert told(plugged, kind, vllm_xargs={"nobody": "reads this"}) == told(plugged, kind)


def test_a_beam_search_is_streamed_by_a_chat_alone_and_in_one_piece(plugged: Engine) -> None:
    refused = post(plugged, ApiRoute.COMPLETION, use_beam_search=True, n=2)
    assert refused.status_code == 400
    assert "beam search" in refused.text
    generation = generation_of(Row("beam", "", {**GREEDY, "use_beam_search": True, "n": 3, "max_tokens": 12}))
    player = ContinuationRunner(plugged, generation)
    right = player.whole()
    assert player.events >= 2 * generation.choices  # a role and an answer for each, and the end
    for events in range(generation.choices + 1, 2 * generation.choices):  # some have theirs, and others none
        for entry in (False, True):
            assert outputs_of(player.cut(CutPoint(events, entry=entry), able=())) == outputs_of(right)


def test_a_prompt_without_an_answer_comes_in_one_piece(plugged: Engine) -> None:
    fields = {"echo": True, "max_tokens": 0, "logprobs": 1, "prompt": ["It was", "a dark night", [300, 257]][:2]}
    generation = generation_of(Row("none", "", {**fields, "return_token_ids": False}, kind=ApiRoute.COMPLETION))
    player = ContinuationRunner(plugged, generation)
    right = outputs_of(player.alone())
    assert [right[index][0] for index in (0, 1)] == ["It was", "a dark night"]
    assert outputs_of(player.whole()) == right
    assert (
        outputs_of(player.cut(CutPoint(1), able=()))
        == outputs_of(player.cut(CutPoint(1, entry=True), able=()))
        == right
    )


def test_a_completion_without_a_limit_has_16_tokens_and_may_be_given_any_that_the_context_has(plugged: Engine) -> None:
    """So a rewound chat without one is given pieces, of which each is as long as what has found room already."""
    for none in ({}, {"max_tokens": None}):
        body = {key: value for key, value in BODY.items() if key not in ("stream", "max_tokens")}
        whole = httpx.post(
            plugged.url + ApiRoute.COMPLETION.value, json={**body, **ASKED[ApiRoute.COMPLETION], **none}, timeout=120
        )
        assert whole.json()["usage"]["completion_tokens"] == 16
    ids = [300, 257] * 1200  # more than half of the context of 4096
    rest = told(plugged, ApiRoute.COMPLETION, prompt=ids, max_tokens=len(ids), return_token_ids=True)
    assert len(rest[0][3]) == 4096 - len(ids)
    assert rest[0][4] == ["length"]


def test_the_limit_that_is_read_is_the_one_that_the_engine_takes(plugged: Engine) -> None:
    fields = {"max_completion_tokens": None, "max_tokens": 5, "return_token_ids": True}
    generation = read_generation(
        ApiRoute.CHAT, httpx.Request("POST", "/", json={**BODY, **ASKED[ApiRoute.CHAT], **fields}).read()
    )
    assert generation.max_tokens == len(told(plugged, ApiRoute.CHAT, **fields)[0][3])
