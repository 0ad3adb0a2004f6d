"""Token id events that a real vLLM with the plug-in emits on every route, and how a resumed answer ends."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from synkti_engine.token_id_emitter import prompt_digest
from tests.contract.rows import GREEDY
from tests.contract.test_plugin import choice, complete
from tests.contract.test_plugin import resuming as plain_resume_after
from tests.contract.thinking_model import TAG_IDS
from tests.contract.token_events import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    body,
    events,
    ids_of,
    normalized,
    prompt_of,
    recorded,
    resuming,
    vllm_events,
    with_token_ids,
)  # fmt: skip
from tests.engines import Engine

pytestmark = pytest.mark.vllm
plain = pytest.mark.parametrize("plugged", ["plain"], indirect=True)
reasoning = pytest.mark.parametrize("plugged", [pytest.param("thinks", marks=pytest.mark.long)], indirect=True)
both_routes = pytest.mark.parametrize("path", [RESPONSES, MESSAGES])

RECORDED = recorded()
ESTIMATED = frozenset({"logprob", "top_logprobs"})
THINKING = {name for name in RECORDED if "reasoning" in name or "thinking" in name}
STORY = "Tell me a long story."
WARM: dict[str, Any] = {"temperature": 1.3}
_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: dict[str, dict[str, Any]] = {
    RESPONSES: {
        "tools": [{"type": "function", "name": "weather", "parameters": _PARAMETERS}],
        "tool_choice": "required",
    },
    MESSAGES: {"tools": [{"name": "weather", "input_schema": _PARAMETERS}], "tool_choice": {"type": "any"}},
}
NUMBERS = {"type": "array", "minItems": 1000, "items": {"type": "integer"}}
ENDLESS_MESSAGE = {"output_config": {"format": {"type": "json_schema", "schema": NUMBERS}}}
"""The Messages API has no ignore_eos, and a tool call may end at any time; a thousand numbers may not."""
_TRIES = 60


def cuts(ids: list[int]) -> list[int]:
    return sorted({1, len(ids) // 3, len(ids) - 1, len(ids)})


def assert_resumes_equally(engine: Engine, path: str, request: dict[str, Any]) -> list[Any]:
    """Assert that resuming after some of a stream's ids, and after all, yields the same events. Returns its events."""
    whole = events(engine, path, {**request, **with_token_ids()})
    ids = ids_of(whole)
    assert len(ids) > 3
    for cut in cuts(ids):
        again = events(engine, path, {**request, **resuming(ids[:cut])})
        assert normalized(again) == normalized(whole), f"resumed after {cut} of {len(ids)} ids"
    return whole


@plain
def test_every_route_emits_the_token_ids_that_a_chat_reports(plugged: Engine) -> None:
    request = body(CHAT, STORY, 90, **GREEDY, return_token_ids=True)
    chat = [data for _, data in events(plugged, CHAT, request) if data != "[DONE]"]
    ids = [token for chunk in chat for one in chunk["choices"] for token in one.get("token_ids") or ()]
    assert len(ids) == 90
    for path in (RESPONSES, MESSAGES, CHAT):
        stream = events(plugged, path, body(path, STORY, 90, **GREEDY, **with_token_ids()))
        assert ids_of(stream) == ids
        assert prompt_of(stream) == prompt_digest(chat[0]["prompt_token_ids"])
    completion = events(
        plugged, COMPLETIONS, body(COMPLETIONS, STORY, 20, **GREEDY, **with_token_ids(), return_token_ids=True)
    )
    assert ids_of(completion) == [token for _, data in completion[:-1] if "choices" in data for token in reported(data)]
    assert len(ids_of(completion)) == 20


def reported(chunk: dict[str, Any]) -> list[int]:
    return [token for one in chunk["choices"] for token in one.get("token_ids") or ()]


@plain
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_token_ids_are_emitted_before_the_chunk_that_contains_them(plugged: Engine, path: str) -> None:
    emitted: list[int] = []
    in_chunks: list[int] = []
    for name, data in events(
        plugged, path, body(path, STORY, 60, **WARM, **with_token_ids(), return_token_ids=True, ignore_eos=True)
    ):
        if name == "synkti-ids":
            assert emitted == in_chunks, "emitted no earlier than necessary"
            emitted += data
        elif name == "" and data != "[DONE]":
            in_chunks += reported(data)
            assert in_chunks == emitted[: len(in_chunks)]
    assert in_chunks == emitted
    assert len(emitted) > 3


@plain
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, COMPLETIONS])
def test_a_stream_without_the_plugins_events_is_the_one_of_a_plain_request(plugged: Engine, path: str) -> None:
    request = body(path, "count", 40, **GREEDY)
    without, emitting = events(plugged, path, request), events(plugged, path, {**request, **with_token_ids()})
    assert vllm_events(without) == without
    assert comparable(vllm_events(emitting)) == comparable(without)
    assert len(ids_of(emitting)) > 3


def comparable(stream: list[Any]) -> tuple[list[str], str, str]:
    """Return the kinds of events in order, all text, and the last event with a content.

    The number of outputs in one event is not defined if ids are not emitted: a busy machine joins them.
    """
    kinds = [name for name, _ in itertools.groupby(name for name, _ in stream)]
    contents = [normalized(data) for _, data in stream if isinstance(data, dict) and data.get("type") != "message_stop"]
    last = {name: value for name, value in contents[-1].items() if name not in ("sequence_number", "choices")}
    return kinds, "".join(delta_of(data) for _, data in stream), str(last)


def delta_of(data: Any) -> str:
    if not isinstance(data, dict):
        return ""
    delta = data.get("delta")
    if isinstance(delta, str):
        return delta
    choices = data.get("choices") or ()
    texts = [one.get("text") or (one.get("delta") or {}).get("content") or "" for one in choices]
    ends = [f"<{one['finish_reason']}>" for one in choices if one.get("finish_reason")]
    return "".join([*texts, *ends, str(delta.get("text") or "") if isinstance(delta, dict) else ""])


def assert_as_recorded(engine: Engine, name: str) -> None:
    """Assert that resuming with a recording's ids yields the recorded events, which the unit tests use.

    The model is trained on the machine that runs this, so that other ids, and other probabilities, are generated.
    """
    path, request, before = RECORDED[name]
    again = events(engine, path, {**request, **resuming(ids_of(before))})
    assert normalized(again, ESTIMATED) == normalized(before, ESTIMATED)


@plain
@pytest.mark.parametrize("name", sorted(set(RECORDED) - THINKING))
def test_a_recorded_stream_is_reproduced_from_its_token_ids(plugged: Engine, name: str) -> None:
    assert_as_recorded(plugged, name)


@reasoning
@pytest.mark.parametrize("name", sorted(THINKING))
def test_a_recorded_stream_with_reasoning_is_reproduced_from_its_token_ids(plugged: Engine, name: str) -> None:
    assert_as_recorded(plugged, name)


@plain
@both_routes
@pytest.mark.parametrize("tokens", [40, 400], ids=["cut-short", "ended"])
def test_a_stream_resumes_after_some_and_after_all_of_its_token_ids(plugged: Engine, path: str, tokens: int) -> None:
    assert_resumes_equally(plugged, path, body(path, STORY, tokens, **GREEDY))


@plain
@both_routes
def test_a_tool_call_resumes_after_its_token_ids(plugged: Engine, path: str) -> None:
    stream = assert_resumes_equally(plugged, path, body(path, STORY, 60, **GREEDY, **TOOLS[path]))
    assert "weather" in str(vllm_events(stream))


@plain
def test_a_seeded_response_resumes_after_its_token_ids(plugged: Engine) -> None:
    request = body(RESPONSES, STORY, 60, **WARM, seed=7)
    stream = assert_resumes_equally(plugged, RESPONSES, {**request, "frequency_penalty": 0.5})
    assert ids_of(events(plugged, RESPONSES, {**request, "seed": 8, **with_token_ids()})) != ids_of(stream)


@plain
def test_messages_ignore_the_seed_and_resume_continuously_after_their_token_ids(plugged: Engine) -> None:
    request = body(MESSAGES, STORY, 60, **WARM, seed=7)
    whole = events(plugged, MESSAGES, {**request, **with_token_ids()})
    ids = ids_of(whole)
    tries = [events(plugged, MESSAGES, {**request, **with_token_ids()}) for _ in range(3)]
    assert any(ids_of(other) != ids for other in tries), "a seed would make all of them equal"
    cut = len(ids) // 2
    place = [name for name, _ in whole].index("content_block_start") + cut
    again = events(plugged, MESSAGES, {**request, **resuming(ids[:cut])})
    assert ids_of(again)[:cut] == ids[:cut]
    assert normalized(again[: place - cut]) == normalized(whole[: place - cut])
    assert again[-1][0] == "message_stop"


@reasoning
def test_a_response_with_reasoning_resumes_after_its_token_ids(plugged: Engine) -> None:
    biased = {"logit_bias": {str(TAG_IDS["<think>"]): 10.0, str(TAG_IDS["</think>"]): 5.0}}
    fields = {"temperature": 0.9, "presence_penalty": 1.0, "skip_special_tokens": False, **biased}
    for seed in range(1, _TRIES):
        request = body(RESPONSES, STORY, 60, **fields, seed=seed)
        names = {name for name, _ in events(plugged, RESPONSES, {**request, **with_token_ids()})}
        if {"response.reasoning_text.delta", "response.output_text.delta"} <= names:
            assert_resumes_equally(plugged, RESPONSES, request)
            return
    pytest.skip("the model that was trained on this machine has no answer with reasoning and content")


@reasoning
def test_a_message_with_reasoning_ends_equally_after_all_of_its_token_ids(plugged: Engine) -> None:
    """Unseeded, so that only all of its ids reproduce the answer."""
    request = body(MESSAGES, STORY, 60, temperature=2.0)
    for _ in range(_TRIES):
        whole = events(plugged, MESSAGES, {**request, **with_token_ids()})
        if "thinking_delta" in str(whole) and "text_delta" in str(whole):
            assert normalized(events(plugged, MESSAGES, {**request, **resuming(ids_of(whole))})) == normalized(whole)
            return
    pytest.skip("the model that was trained on this machine has no answer with reasoning and content")


@reasoning
def test_token_ids_of_hidden_reasoning_are_emitted_while_no_chunk_is_sent(plugged: Engine) -> None:
    fields = {"temperature": 0, "include_reasoning": False}
    stream = events(plugged, CHAT, body(CHAT, STORY, 40, **fields, **with_token_ids()))
    names = [name for name, _ in stream]
    assert names.count("synkti-ids") == len(ids_of(stream)) == 40
    assert len(vllm_events(stream)) < 10


@plain
def test_concurrent_streams_receive_only_their_own_token_ids(plugged: Engine) -> None:
    paths = [RESPONSES, MESSAGES, CHAT, COMPLETIONS] * 4
    requests = [
        (path, body(path, f"{STORY} {place}", 30, **GREEDY, **(with_token_ids() if place % 3 else {})))
        for place, path in enumerate(paths)
    ]
    alone = [ids_of(events(plugged, *one)) for one in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda one: ids_of(events(plugged, *one)), requests))
    assert together == alone
    assert [bool(ids) for ids in alone] == [place % 3 > 0 for place in range(len(paths))]


@plain
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, COMPLETIONS])
def test_a_client_that_disconnects_ends_its_generation(plugged: Engine, path: str) -> None:
    """The whole answer would take more than 10 s: no engine generates 300 tokens/s for one client here."""
    endless = {"ignore_eos": True} if path != MESSAGES else ENDLESS_MESSAGE
    request = body(path, STORY, 3000, **WARM, **with_token_ids(), **endless)
    with httpx.stream("POST", plugged.url + path, json=request, timeout=60) as response:
        parts = response.iter_bytes()
        while b"synkti-ids" not in next(parts):
            pass
        wait_until_running(plugged, 1)
    wait_until_running(plugged, 0)


@plain
@pytest.mark.parametrize(
    ("path", "fields", "why"),
    [
        (CHAT, {"n": 2, "temperature": 1}, "n=2"),
        (COMPLETIONS, {"n": 2, "temperature": 1}, "n=2"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "several prompts"),
    ],
)
def test_token_ids_of_several_choices_or_prompts_are_refused_with_400(
    plugged: Engine, path: str, fields: dict[str, Any], why: str
) -> None:
    response = httpx.post(plugged.url + path, json={**body(path, "a", 4), **with_token_ids(), **fields}, timeout=60)
    assert response.status_code == 400
    assert why in response.text


def wait_until_running(engine: Engine, count: int) -> None:
    """Poll the engine's count of running requests, which vLLM updates now and then, for 5 s."""
    give_up_at = time.monotonic() + 5
    while (running := running_requests(engine)) != count:
        assert time.monotonic() < give_up_at, f"{running} are running, and not {count}"
        time.sleep(0.02)


def running_requests(engine: Engine) -> float:
    figures = httpx.get(f"{engine.url}/metrics", timeout=10).text.splitlines()
    (running,) = [line for line in figures if line.startswith("vllm:num_requests_running")]
    return float(running.split()[-1])


def ended(engine: Engine, **fields: Any) -> dict[str, Any]:
    """Return an answer, sampled without a seed, that ended with finish_reason stop."""
    for _ in range(_TRIES):
        answer = choice(engine, 1000, prompt="It was a dark night", **WARM, **fields)
        if answer["finish_reason"] == "stop" and len(answer["token_ids"]) > 3:
            return answer
    raise AssertionError("no answer ends by itself")


@plain
def test_a_finished_unseeded_answer_resumed_after_all_its_ids_ends_at_the_same_token(plugged: Engine) -> None:
    whole = ended(plugged)
    ids = whole["token_ids"]
    for _ in range(10):
        again = choice(plugged, 1000, **WARM, **plain_resume_after(ids))
        assert again["token_ids"] == ids
        assert (again["finish_reason"], again["stop_reason"]) == ("stop", whole["stop_reason"])
        assert again["text"] == whole["text"]


@plain
def test_an_unseeded_answer_resumed_at_max_tokens_ends_with_length(plugged: Engine) -> None:
    ids = choice(plugged, 30, **WARM, ignore_eos=True)["token_ids"]
    for known in (ids, ids[:1]):
        for _ in range(10):
            again = choice(plugged, len(known), **WARM, ignore_eos=True, **plain_resume_after(known))
            assert again["token_ids"] == known
            assert again["finish_reason"] == "length"


@plain
def test_an_answer_ended_by_its_grammar_ends_at_the_same_token_when_resumed(plugged: Engine) -> None:
    fields = {"structured_outputs": {"regex": "[a-z]{5,40}"}, "logprobs": 2, "min_tokens": 3}
    whole = ended(plugged, **fields)
    for _ in range(5):
        again = choice(plugged, 1000, **WARM, **fields, **plain_resume_after(whole["token_ids"]))
        assert again["token_ids"] == whole["token_ids"]
        assert again["finish_reason"] == "stop"
        assert again["logprobs"]["token_logprobs"][-1] == pytest.approx(whole["logprobs"]["token_logprobs"][-1], 1e-4)


@plain
def test_with_ignore_eos_a_resumed_end_token_does_not_end_the_answer(plugged: Engine) -> None:
    ids = ended(plugged)["token_ids"]
    again = choice(plugged, len(ids) + 5, **WARM, ignore_eos=True, **plain_resume_after(ids))
    assert again["token_ids"][: len(ids)] == ids
    assert len(again["token_ids"]) == len(ids) + 5
    assert again["finish_reason"] == "length"


@plain
def test_an_answer_ended_by_a_stop_string_ends_equally_when_resumed(plugged: Engine) -> None:
    fields = {"stop": ["the"], "temperature": 0}
    whole = choice(plugged, 200, prompt="It was a dark night", **fields)
    assert whole["finish_reason"] == "stop"
    stream = events(
        plugged, COMPLETIONS, {**body(COMPLETIONS, "It was a dark night", 200), **fields, **with_token_ids()}
    )
    again = {**body(COMPLETIONS, "It was a dark night", 200), **fields, **resuming(ids_of(stream))}
    assert normalized(events(plugged, COMPLETIONS, again)) == normalized(stream)


@plain
def test_forced_decoding_ends_where_the_answer_ended(plugged: Engine) -> None:
    for whole in (ended(plugged), choice(plugged, 12, **WARM, ignore_eos=True)):
        ids = whole["token_ids"]
        tokens = 1000 if whole["finish_reason"] == "stop" else len(ids)
        again = choice(plugged, tokens, **WARM, **plain_resume_after(ids, "synkti_forced_ids"))
        assert (again["token_ids"], again["finish_reason"]) == (ids, whole["finish_reason"])


@plain
def test_more_ids_than_max_tokens_are_refused_with_400(plugged: Engine) -> None:
    response = complete(plugged, 4, **plain_resume_after([5] * 5))
    assert response.status_code == 400
    assert "5 ids are more than max_tokens=4" in response.text
