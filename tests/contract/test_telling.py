"""What a real vLLM with the plug-in tells of the ids behind its streams, on every route; and how a told answer ends."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from synkti_engine.token_id_emitter import prompt_digest
from tests.contract.rows import GREEDY
from tests.contract.test_plugin import ask, choice
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
thinks = pytest.mark.parametrize("plugged", ["thinks"], indirect=True)
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
"""Messages know no ignore_eos, and a call of a tool may end at any time; a thousand numbers may not."""
_TRIES = 60


def cuts(ids: list[int]) -> list[int]:
    return sorted({1, len(ids) // 3, len(ids) - 1, len(ids)})


def goes_on_the_same(engine: Engine, path: str, request: dict[str, Any]) -> list[Any]:
    """Whether the events behind some of a stream's ids, and behind all, are its events again; ours among them."""
    whole = events(engine, path, {**request, **with_token_ids()})
    ids = ids_of(whole)
    assert len(ids) > 3
    for cut in cuts(ids):
        again = events(engine, path, {**request, **resuming(ids[:cut])})
        assert normalized(again) == normalized(whole), f"behind {cut} of {len(ids)} ids"
    return whole


@plain
def test_every_route_tells_the_ids_that_a_chat_reports(plugged: Engine) -> None:
    asked = body(CHAT, STORY, 90, **GREEDY, return_token_ids=True)
    chat = [data for _, data in events(plugged, CHAT, asked) if data != "[DONE]"]
    ids = [token for chunk in chat for one in chunk["choices"] for token in one.get("token_ids") or ()]
    assert len(ids) == 90
    for path in (RESPONSES, MESSAGES, CHAT):
        told = events(plugged, path, body(path, STORY, 90, **GREEDY, **with_token_ids()))
        assert ids_of(told) == ids
        assert prompt_of(told) == prompt_digest(chat[0]["prompt_token_ids"])
    plainly = events(
        plugged, COMPLETIONS, body(COMPLETIONS, STORY, 20, **GREEDY, **with_token_ids(), return_token_ids=True)
    )
    assert ids_of(plainly) == [token for _, data in plainly[:-1] if "choices" in data for token in reported(data)]
    assert len(ids_of(plainly)) == 20


def reported(chunk: dict[str, Any]) -> list[int]:
    return [token for one in chunk["choices"] for token in one.get("token_ids") or ()]


@plain
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_ids_are_told_before_the_chunk_that_they_caused(plugged: Engine, path: str) -> None:
    told: list[int] = []
    heard: list[int] = []
    for name, data in events(
        plugged, path, body(path, STORY, 60, **WARM, **with_token_ids(), return_token_ids=True, ignore_eos=True)
    ):
        if name == "synkti-ids":
            assert told == heard, "and no earlier than they have to be"
            told += data
        elif name == "" and data != "[DONE]":
            heard += reported(data)
            assert heard == told[: len(heard)]
    assert heard == told
    assert len(told) > 3


@plain
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, COMPLETIONS])
def test_but_for_our_events_a_stream_is_the_one_that_it_was(plugged: Engine, path: str) -> None:
    asked = body(path, "count", 40, **GREEDY)
    silent, told = events(plugged, path, asked), events(plugged, path, {**asked, **with_token_ids()})
    assert vllm_events(silent) == silent
    assert words(vllm_events(told)) == words(silent)
    assert len(ids_of(told)) > 3


def words(told: list[Any]) -> tuple[list[str], str, str]:
    """Kinds of events in their order, all text, and the last event with a content.

    How many outputs are in one event is nobody's promise where ids are not told: a busy machine joins them.
    """
    kinds = [name for name, _ in itertools.groupby(name for name, _ in told)]
    contents = [normalized(data) for _, data in told if isinstance(data, dict) and data.get("type") != "message_stop"]
    last = {name: value for name, value in contents[-1].items() if name not in ("sequence_number", "choices")}
    return kinds, "".join(delta_of(data) for _, data in told), str(last)


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


def as_recorded(engine: Engine, name: str) -> None:
    """What the tests of an entry are made of is still what an engine says, of the same ids.

    The model is taught on the machine that runs this, and would choose others, each less or more probable.
    """
    path, request, before = RECORDED[name]
    again = events(engine, path, {**request, **resuming(ids_of(before))})
    assert normalized(again, ESTIMATED) == normalized(before, ESTIMATED)


@plain
@pytest.mark.parametrize("name", sorted(set(RECORDED) - THINKING))
def test_a_recorded_stream_is_said_again(plugged: Engine, name: str) -> None:
    as_recorded(plugged, name)


@thinks
@pytest.mark.parametrize("name", sorted(THINKING))
def test_a_recorded_stream_that_thinks_is_said_again(plugged: Engine, name: str) -> None:
    as_recorded(plugged, name)


@plain
@both_routes
@pytest.mark.parametrize("tokens", [40, 400], ids=["cut-short", "ended"])
def test_a_stream_goes_on_behind_its_ids(plugged: Engine, path: str, tokens: int) -> None:
    goes_on_the_same(plugged, path, body(path, STORY, tokens, **GREEDY))


@plain
@both_routes
def test_a_call_of_a_tool_goes_on_behind_its_ids(plugged: Engine, path: str) -> None:
    told = goes_on_the_same(plugged, path, body(path, STORY, 60, **GREEDY, **TOOLS[path]))
    assert "weather" in str(vllm_events(told))


@plain
def test_a_seeded_response_goes_on_behind_its_ids(plugged: Engine) -> None:
    asked = body(RESPONSES, STORY, 60, **WARM, seed=7)
    told = goes_on_the_same(plugged, RESPONSES, {**asked, "frequency_penalty": 0.5})
    assert ids_of(events(plugged, RESPONSES, {**asked, "seed": 8, **with_token_ids()})) != ids_of(told)


@plain
def test_messages_know_no_seed_and_are_continuous_behind_their_ids(plugged: Engine) -> None:
    asked = body(MESSAGES, STORY, 60, **WARM, seed=7)
    whole = events(plugged, MESSAGES, {**asked, **with_token_ids()})
    ids = ids_of(whole)
    tries = [events(plugged, MESSAGES, {**asked, **with_token_ids()}) for _ in range(3)]
    assert any(ids_of(other) != ids for other in tries), "with a seed they would all be one"
    cut = len(ids) // 2
    place = [name for name, _ in whole].index("content_block_start") + cut
    again = events(plugged, MESSAGES, {**asked, **resuming(ids[:cut])})
    assert ids_of(again)[:cut] == ids[:cut]
    assert normalized(again[: place - cut]) == normalized(whole[: place - cut])
    assert again[-1][0] == "message_stop"


@thinks
def test_a_response_that_thinks_goes_on_behind_its_ids(plugged: Engine) -> None:
    biased = {"logit_bias": {str(TAG_IDS["<think>"]): 10.0, str(TAG_IDS["</think>"]): 5.0}}
    fields = {"temperature": 0.9, "presence_penalty": 1.0, "skip_special_tokens": False, **biased}
    for seed in range(1, _TRIES):
        asked = body(RESPONSES, STORY, 60, **fields, seed=seed)
        names = {name for name, _ in events(plugged, RESPONSES, {**asked, **with_token_ids()})}
        if {"response.reasoning_text.delta", "response.output_text.delta"} <= names:
            goes_on_the_same(plugged, RESPONSES, asked)
            return
    pytest.skip("the model that was taught on this machine has no answer that thinks and speaks")


@thinks
def test_a_message_that_thinks_ends_as_it_ended_behind_all_its_ids(plugged: Engine) -> None:
    """Unseeded: only all its ids can have it said again."""
    asked = body(MESSAGES, STORY, 60, temperature=2.0)
    for _ in range(_TRIES):
        whole = events(plugged, MESSAGES, {**asked, **with_token_ids()})
        if "thinking_delta" in str(whole) and "text_delta" in str(whole):
            assert normalized(events(plugged, MESSAGES, {**asked, **resuming(ids_of(whole))})) == normalized(whole)
            return
    pytest.skip("the model that was taught on this machine has no answer that thinks and speaks")


@thinks
def test_ids_of_hidden_thoughts_are_told_while_no_chunk_is_sent(plugged: Engine) -> None:
    fields = {"temperature": 0, "include_reasoning": False}
    told = events(plugged, CHAT, body(CHAT, STORY, 40, **fields, **with_token_ids()))
    names = [name for name, _ in told]
    assert names.count("synkti-ids") == len(ids_of(told)) == 40
    assert len(vllm_events(told)) < 10


@plain
def test_many_streams_at_once_are_told_their_own_ids(plugged: Engine) -> None:
    paths = [RESPONSES, MESSAGES, CHAT, COMPLETIONS] * 4
    asked = [
        (path, body(path, f"{STORY} {place}", 30, **GREEDY, **(with_token_ids() if place % 3 else {})))
        for place, path in enumerate(paths)
    ]
    alone = [ids_of(events(plugged, *one)) for one in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: ids_of(events(plugged, *one)), asked))
    assert together == alone
    assert [bool(ids) for ids in alone] == [place % 3 > 0 for place in range(len(paths))]


@plain
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, CHAT, COMPLETIONS])
def test_a_reader_that_goes_ends_its_generation(plugged: Engine, path: str) -> None:
    """Its whole answer would take more than 10 s: no engine makes 300 tokens a second for one reader here."""
    endless = {"ignore_eos": True} if path != MESSAGES else ENDLESS_MESSAGE
    asked = body(path, STORY, 3000, **WARM, **with_token_ids(), **endless)
    with httpx.stream("POST", plugged.url + path, json=asked, timeout=60) as response:
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
def test_the_ids_of_several_answers_are_not_told(plugged: Engine, path: str, fields: dict[str, Any], why: str) -> None:
    response = httpx.post(plugged.url + path, json={**body(path, "a", 4), **with_token_ids(), **fields}, timeout=60)
    assert response.status_code == 400
    assert why in response.text


def wait_until_running(engine: Engine, count: int) -> None:
    """vLLM counts its requests now and then."""
    give_up_at = time.monotonic() + 5
    while (running := running_requests(engine)) != count:
        assert time.monotonic() < give_up_at, f"{running} are running, and not {count}"
        time.sleep(0.02)


def running_requests(engine: Engine) -> float:
    figures = httpx.get(f"{engine.url}/metrics", timeout=10).text.splitlines()
    (running,) = [line for line in figures if line.startswith("vllm:num_requests_running")]
    return float(running.split()[-1])


def ended(engine: Engine, **fields: Any) -> dict[str, Any]:
    """An answer that ended by itself, sampled without a seed."""
    for _ in range(_TRIES):
        told = choice(engine, 1000, prompt="It was a dark night", **WARM, **fields)
        if told["finish_reason"] == "stop" and len(told["token_ids"]) > 3:
            return told
    raise AssertionError("no answer ends by itself")


@plain
def test_an_unseeded_answer_that_ended_ends_there_again(plugged: Engine) -> None:
    whole = ended(plugged)
    ids = whole["token_ids"]
    for _ in range(10):
        again = choice(plugged, 1000, **WARM, **plain_resume_after(ids))
        assert again["token_ids"] == ids
        assert (again["finish_reason"], again["stop_reason"]) == ("stop", whole["stop_reason"])
        assert again["text"] == whole["text"]


@plain
def test_an_unseeded_answer_of_all_its_tokens_ends_by_its_length(plugged: Engine) -> None:
    ids = choice(plugged, 30, **WARM, ignore_eos=True)["token_ids"]
    for known in (ids, ids[:1]):
        for _ in range(10):
            again = choice(plugged, len(known), **WARM, ignore_eos=True, **plain_resume_after(known))
            assert again["token_ids"] == known
            assert again["finish_reason"] == "length"


@plain
def test_the_end_of_a_grammar_is_the_end_again(plugged: Engine) -> None:
    fields = {"structured_outputs": {"regex": "[a-z]{5,40}"}, "logprobs": 2, "min_tokens": 3}
    whole = ended(plugged, **fields)
    for _ in range(5):
        again = choice(plugged, 1000, **WARM, **fields, **plain_resume_after(whole["token_ids"]))
        assert again["token_ids"] == whole["token_ids"]
        assert again["finish_reason"] == "stop"
        assert again["logprobs"]["token_logprobs"][-1] == pytest.approx(whole["logprobs"]["token_logprobs"][-1], 1e-4)


@plain
def test_an_end_that_is_ignored_is_none(plugged: Engine) -> None:
    ids = ended(plugged)["token_ids"]
    again = choice(plugged, len(ids) + 5, **WARM, ignore_eos=True, **plain_resume_after(ids))
    assert again["token_ids"][: len(ids)] == ids
    assert len(again["token_ids"]) == len(ids) + 5
    assert again["finish_reason"] == "length"


@plain
def test_an_answer_that_a_stop_string_ended_ends_there_again(plugged: Engine) -> None:
    fields = {"stop": ["the"], "temperature": 0}
    whole = choice(plugged, 200, prompt="It was a dark night", **fields)
    assert whole["finish_reason"] == "stop"
    told = events(plugged, COMPLETIONS, {**body(COMPLETIONS, "It was a dark night", 200), **fields, **with_token_ids()})
    again = {**body(COMPLETIONS, "It was a dark night", 200), **fields, **resuming(ids_of(told))}
    assert normalized(events(plugged, COMPLETIONS, again)) == normalized(told)


@plain
def test_forced_replay_ends_where_the_answer_ended(plugged: Engine) -> None:
    for whole in (ended(plugged), choice(plugged, 12, **WARM, ignore_eos=True)):
        ids = whole["token_ids"]
        tokens = 1000 if whole["finish_reason"] == "stop" else len(ids)
        again = choice(plugged, tokens, **WARM, **plain_resume_after(ids, "synkti_forced_ids"))
        assert (again["token_ids"], again["finish_reason"]) == (ids, whole["finish_reason"])


@plain
def test_more_ids_than_an_answer_may_have_are_refused(plugged: Engine) -> None:
    response = ask(plugged, 4, **plain_resume_after([5] * 5))
    assert response.status_code == 400
    assert "5 ids are more than max_tokens=4" in response.text
