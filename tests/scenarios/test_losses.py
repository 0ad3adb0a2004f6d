"""Every kind of engine loss, at every position of a stream: the client gets the whole answer once, or an error.

All scenarios share one fleet. The engines receive their faults in advance (local/fake_engine/faults.py), and each
scenario ends with the check that all of them were injected.
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
class StreamResult:
    """Accumulates what a client receives of one stream, ends and errors included."""

    status: int = 0
    text: str = ""
    ids: tuple[int, ...] = ()
    finish_reasons: list[str] = field(default_factory=list)
    usage: dict[str, int] | None = None
    error: dict[str, Any] | None = None
    done: int = 0
    after_done: int = 0

    def add_event(self, data: bytes) -> None:
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


class CompletionFaultFleet(FaultFleet[StreamResult]):
    async def request(self, entry: LocalNode, form: str, **fields: Any) -> StreamResult:
        path = "/v1/completions" if kind_of(form) == "plain" else "/v1/chat/completions"
        result, parser = StreamResult(), SseParser()
        body = {**BODIES[form], **fields}
        async with self.fleet.http.stream("POST", entry.url + path, json=body) as response:
            result.status = response.status_code
            if response.status_code != 200:
                result.error = json.loads(await response.aread())["error"]
            async for data in response.aiter_bytes():
                for _, event in parser.feed(data):
                    result.add_event(event)
        return result


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionFaultFleet]:
    with fault_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield CompletionFaultFleet(*made)


def fault(kind: str, form: str, share: float) -> Fault:
    """Return a fault at a share of the tokens: 0 is before the first, 1 before the last."""
    if kind in WITHOUT:
        return {"kind": kind}
    places = list(range(TOKENS))
    if kind == "half-character":
        made = list(generate_steps(PROMPTS[kind_of(form)], SAMPLING, 4096))
        places = [at for at in places if not made[at].text.isascii()]
    return {"kind": kind, "after_tokens": places[round(share * (len(places) - 1))]}


def assert_whole(result: StreamResult, form: str) -> None:
    right = right_answer(form)
    assert (result.status, result.error) == (200, None)
    assert result.text == right.text
    assert result.finish_reasons == ["length"]
    assert (result.done, result.after_done) == (1, 0)
    if form != "chat":
        assert result.ids == right.token_ids
    if form == "chat-ids":
        prompt = len(PROMPTS["chat"])
        total = {"prompt_tokens": prompt, "completion_tokens": TOKENS, "total_tokens": prompt + TOKENS}
        assert result.usage == total


def assert_explicit_error(result: StreamResult, form: str) -> None:
    assert result.error is not None, result
    assert result.error["code"] == "engine_lost"
    assert result.finish_reasons == []
    assert result.done == 0, "a stream that failed must not look complete"
    right = right_answer(form)
    assert right.text.startswith(result.text)
    assert right.token_ids[: len(result.ids)] == result.ids


FORMS = pytest.mark.parametrize("form", BODIES)
PLACES = {"before the first token": 0.0, "behind the first": 0.01, "in the middle": 0.5, "before the last": 1.0}
CASES = [(kind, place) for kind in WITH_PLACE for place in PLACES] + [(kind, "in the middle") for kind in WITHOUT]


@FORMS
@pytest.mark.parametrize(("kind", "place"), CASES, ids=[f"{kind} {place}" for kind, place in CASES])
def test_a_stream_that_loses_one_engine_is_complete(
    faulty: CompletionFaultFleet, form: str, kind: str, place: str
) -> None:
    async def scenario() -> None:
        assert_whole(await faulty.request_with_faults(form, [fault(kind, form, PLACES[place])]), form)

    faulty.run(scenario)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_a_stream_that_loses_the_entrys_own_engine_is_complete(
    faulty: CompletionFaultFleet, form: str, kind: str
) -> None:
    async def scenario() -> None:
        assert_whole(await faulty.request_with_faults(form, [fault(kind, form, 0.3)], entry=0), form)

    faulty.run(scenario)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_a_stream_that_loses_its_continuation_too_is_complete(
    faulty: CompletionFaultFleet, form: str, kind: str
) -> None:
    async def scenario() -> None:
        first = {"kind": "reset", "after_tokens": TOKENS // 2}  # so that there is something to continue
        for second in (fault(kind, form, 0.0), fault(kind, form, 0.2)):
            assert_whole(await faulty.request_with_faults(form, [first, second]), form)

    faulty.run(scenario)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_a_stream_that_loses_three_engines_ends_with_an_explicit_error(
    faulty: CompletionFaultFleet, form: str, kind: str
) -> None:
    async def scenario() -> None:
        first = {"kind": "eof", "after_tokens": TOKENS // 3}
        second = {"kind": "error-chunk", "after_tokens": TOKENS // 5}
        assert_explicit_error(await faulty.request_with_faults(form, [first, second, fault(kind, form, 0.1)]), form)

    faulty.run(scenario)


@FORMS
@pytest.mark.parametrize("kind", WITH_PLACE + WITHOUT)
def test_a_stream_with_the_same_loss_three_times_ends_with_an_explicit_error(
    faulty: CompletionFaultFleet, form: str, kind: str
) -> None:
    async def scenario() -> None:
        assert_explicit_error(await faulty.request_with_faults(form, [fault(kind, form, 0.1)] * 3), form)

    faulty.run(scenario)
