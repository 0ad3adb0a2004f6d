"""Every way to lose an engine, at every place of a stream: its client gets the whole answer, once, or an error.

One fleet plays all of it; the engines are told their losses beforehand (local/fake_engine/faults.py), and each story
ends by asking them whether the losses really happened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from local.fake_engine import model as fake_model
from local.fake_engine.answers import CompletionOutput, SamplingParams, generate, generate_steps
from node_agent.core.openai.sse import SseParser
from tests.scenarios.fault_fleet import Fault, FaultFleet, fault_fleet
from tests.scenarios.local_fleet import MODEL, LocalNode

TOKENS = 100
BASE: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
CHAT = {**BASE, "messages": [{"role": "user", "content": "a night train"}]}
BODIES: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "chat-ids": {**CHAT, "return_token_ids": True, "stream_options": {"include_usage": True}},
    "plain": {**BASE, "prompt": "a night train", "return_token_ids": True},
}
PROMPTS = {
    "chat": fake_model.chat_prompt(CHAT["messages"]),
    "plain": fake_model.completion_prompt("a night train"),
}
SAMPLING = SamplingParams(TOKENS, ignore_eos=True)
WITH_PLACE = ("reset", "error-chunk", "done", "abort", "eof", "silence", "half-chunk", "half-character")
WITHOUT = ("silence-before-first", "status-500", "wrong-model", "before-finish")


def kind_of(form: str) -> str:
    return form.partition("-")[0]


def right_answer(form: str) -> CompletionOutput:
    return generate(PROMPTS[kind_of(form)], SAMPLING)


@dataclass
class Heard:
    """All that a client was told."""

    status: int = 0
    text: str = ""
    ids: tuple[int, ...] = ()
    finish_reasons: list[str] = field(default_factory=list)
    usage: dict[str, int] | None = None
    error: dict[str, Any] | None = None
    done: int = 0
    after_done: int = 0

    def take(self, data: bytes) -> None:
        if self.done:
            self.after_done += 1
        if data == b"[DONE]":
            self.done += 1
            return
        chunk = json.loads(data)
        self.error = chunk.get("error", self.error)
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", ()):
            self.text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            self.ids += tuple(choice.get("token_ids") or ())
            self.finish_reasons += [choice["finish_reason"]] if choice["finish_reason"] else []


class Stage(FaultFleet[Heard]):
    async def ask(self, entry: LocalNode, form: str, **fields: Any) -> Heard:
        path = "/v1/completions" if kind_of(form) == "plain" else "/v1/chat/completions"
        heard, parser = Heard(), SseParser()
        body = {**BODIES[form], **fields}
        async with self.fleet.http.stream("POST", entry.url + path, json=body) as response:
            heard.status = response.status_code
            if response.status_code != 200:
                heard.error = json.loads(await response.aread())["error"]
            async for data in response.aiter_bytes():
                for _, event in parser.feed(data):
                    heard.take(event)
        return heard


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with fault_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield Stage(*made)


def fault(kind: str, form: str, share: float) -> Fault:
    """One that comes after a share of the tokens: 0 before the first, 1 before the last."""
    if kind in WITHOUT:
        return {"kind": kind}
    places = list(range(TOKENS))
    if kind == "half-character":
        made = list(generate_steps(PROMPTS[kind_of(form)], SAMPLING, 4096))
        places = [at for at in places if not made[at].text.isascii()]
    return {"kind": kind, "after_tokens": places[round(share * (len(places) - 1))]}


def assert_whole(heard: Heard, form: str) -> None:
    right = right_answer(form)
    assert (heard.status, heard.error) == (200, None)
    assert heard.text == right.text
    assert heard.finish_reasons == ["length"]
    assert (heard.done, heard.after_done) == (1, 0)
    if form != "chat":
        assert heard.ids == right.token_ids
    if form == "chat-ids":
        prompt = len(PROMPTS["chat"])
        total = {"prompt_tokens": prompt, "completion_tokens": TOKENS, "total_tokens": prompt + TOKENS}
        assert heard.usage == total


def assert_explicit_error(heard: Heard, form: str) -> None:
    assert heard.error is not None, heard
    assert heard.error["code"] == "engine_lost"
    assert heard.finish_reasons == []
    assert heard.done == 0, "an error never looks like an end"
    right = right_answer(form)
    assert right.text.startswith(heard.text)
    assert right.token_ids[: len(heard.ids)] == heard.ids


FORMS = pytest.mark.parametrize("form", BODIES)
PLACES = {"before the first token": 0.0, "behind the first": 0.01, "in the middle": 0.5, "before the last": 1.0}
CASES = [(kind, place) for kind in WITH_PLACE for place in PLACES] + [(kind, "in the middle") for kind in WITHOUT]


@FORMS
@pytest.mark.parametrize(("kind", "place"), CASES, ids=[f"{kind} {place}" for kind, place in CASES])
def test_one_engine_is_lost(stage: Stage, form: str, kind: str, place: str) -> None:
    async def story() -> None:
        assert_whole(await stage.lose(form, [fault(kind, form, PLACES[place])]), form)

    stage.play(story)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_the_entrys_own_engine_is_lost(stage: Stage, form: str, kind: str) -> None:
    async def story() -> None:
        assert_whole(await stage.lose(form, [fault(kind, form, 0.3)], entry=0), form)

    stage.play(story)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_the_continuation_is_lost_too(stage: Stage, form: str, kind: str) -> None:
    async def story() -> None:
        first = {"kind": "reset", "after_tokens": TOKENS // 2}  # so that there is something to go on from
        for second in (fault(kind, form, 0.0), fault(kind, form, 0.2)):
            assert_whole(await stage.lose(form, [first, second]), form)

    stage.play(story)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_the_third_loss_is_an_error_that_nobody_can_take_for_an_end(stage: Stage, form: str, kind: str) -> None:
    async def story() -> None:
        first = {"kind": "eof", "after_tokens": TOKENS // 3}
        second = {"kind": "error-chunk", "after_tokens": TOKENS // 5}
        assert_explicit_error(await stage.lose(form, [first, second, fault(kind, form, 0.1)]), form)

    stage.play(story)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_the_same_loss_three_times(stage: Stage, form: str, kind: str) -> None:
    async def story() -> None:
        assert_explicit_error(await stage.lose(form, [fault(kind, form, 0.1)] * 3), form)

    stage.play(story)
