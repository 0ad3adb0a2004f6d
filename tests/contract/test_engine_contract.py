"""The parts of vLLM 0.32's protocol that Synkti relies on, tested at the fake engine and at a real vLLM."""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from node_agent.core.openai.chunks import COMPLETE_REASONS
from node_agent.core.openai.sse import SseParser
from tests.engines import MODEL, Engine

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
TOKENS = 60
BASE: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {**BASE, "messages": [{"role": "user", "content": "tell me about emoji 😀"}]},
    PLAIN: {**BASE, "prompt": "tell me about emoji 😀"},
}
SPECIAL = re.compile(r"<\|\w+\|>")
PATHS = pytest.mark.parametrize("path", [CHAT, PLAIN], ids=["chat", "plain"])


@dataclass
class Streamed:
    """A parsed streamed answer."""

    chunks: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def texts(self) -> list[str]:
        return [c["text"] if "text" in c else c["delta"].get("content") or "" for c in self.choices]

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def ids(self) -> list[int]:
        return [token for choice in self.choices for token in choice.get("token_ids") or ()]

    def lengths(self) -> dict[int, int]:
        """Return the length of the text by the number of ids so far."""
        ids, length, found = 0, 0, {}
        for choice, text in zip(self.choices, self.texts, strict=True):
            ids, length = ids + len(choice.get("token_ids") or ()), length + len(text)
            found[ids] = length
        return found

    @property
    def prompt_ids(self) -> list[int]:
        first = self.chunks[0]
        ids: list[int] = first.get("prompt_token_ids") or first["choices"][0]["prompt_token_ids"]
        return ids

    @property
    def finish_reasons(self) -> list[str | None]:
        return [choice["finish_reason"] for choice in self.choices if choice["finish_reason"] is not None]


def stream(engine: Engine, path: str, **fields: Any) -> Streamed:
    body = {**BODIES[path], "stream": True, "return_token_ids": True, **fields}
    received, parser = Streamed(), SseParser()
    with httpx.stream("POST", engine.url + path, json=body, timeout=60) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for data in response.iter_bytes():
            for _, event in parser.feed(data):
                if event == b"[DONE]":
                    received.done = True
                else:
                    received.chunks.append(json.loads(event))
    return received


def post(engine: Engine, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(engine.url + path, json=body, timeout=60)


@PATHS
def test_a_stream_has_ids_in_every_chunk_a_finish_reason_and_an_end(engine: Engine, path: str) -> None:
    received = stream(engine, path)
    assert received.done
    assert len(received.ids) == TOKENS
    assert received.finish_reasons == ["length"]
    assert received.choices[-1]["finish_reason"] == "length"
    assert {chunk["object"] for chunk in received.chunks} == {
        "chat.completion.chunk" if path == CHAT else "text_completion"
    }
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in received.chunks}) == 1
    assert all(isinstance(token, int) for token in received.prompt_ids)
    generating = received.choices[1:] if path == CHAT else received.choices
    assert all(choice["token_ids"] for choice in generating)
    if path == CHAT:
        assert received.choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert "token_ids" not in received.choices[0]


@PATHS
def test_a_greedy_prompt_has_the_same_answer_streamed_or_buffered(engine: Engine, path: str) -> None:
    received, whole = stream(engine, path), post(engine, path, BODIES[path]).json()
    choice = whole["choices"][0]
    assert received.text == (choice["message"]["content"] if path == CHAT else choice["text"])
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == TOKENS
    assert whole["usage"]["prompt_tokens"] == len(received.prompt_ids)
    assert received.text == stream(engine, path).text


@PATHS
def test_usage_is_sent_last_and_only_if_requested(engine: Engine, path: str) -> None:
    assert all(not chunk.get("usage") for chunk in stream(engine, path).chunks)
    last = stream(engine, path, stream_options={"include_usage": True}).chunks[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == TOKENS


@PATHS
def test_a_character_of_several_tokens_is_sent_whole_with_its_last_token(engine: Engine, path: str) -> None:
    received = stream(engine, path, max_tokens=200)
    empty = [
        choice
        for choice, text in zip(received.choices, received.texts, strict=True)
        if choice.get("token_ids") and not text
    ]
    assert empty, "no character of several tokens: the model answers in ASCII only"
    decoded = post(engine, "/detokenize", {"model": MODEL, "tokens": received.ids}).json()["prompt"]
    # A stream omits special tokens, and this machine's model may generate some in the middle.
    assert received.text.replace("\ufffd", "") in SPECIAL.sub("", decoded).replace("\ufffd", "")


def test_a_reprompt_is_exact_from_a_resume_point_and_not_from_inside_a_character(engine: Engine) -> None:
    """The rule of reprompting and its reason. A resume point is where a single id arrived with a text."""
    length = 200
    whole = stream(engine, CHAT, max_tokens=length)
    resume_points: list[tuple[int, str]] = []
    inside: list[tuple[int, str]] = []
    text = ""
    count = 0
    for choice in whole.choices[1:]:
        count += len(choice["token_ids"])
        piece = choice["delta"].get("content") or ""
        text += piece
        if len(choice["token_ids"]) == 1:  # several at once, because this client was slow, are no resume point
            (resume_points if piece else inside).append((count, text))
    assert inside
    for count, delivered in (resume_points[0], resume_points[len(resume_points) // 2], resume_points[-2]):
        rest = stream(engine, PLAIN, prompt=whole.prompt_ids + whole.ids[:count], max_tokens=length - count)
        assert rest.ids == whole.ids[count:]
        assert delivered + rest.text == whole.text
    count, delivered = inside[0]
    trapped = stream(engine, PLAIN, prompt=whole.prompt_ids + whole.ids[:count], max_tokens=length - count)
    assert trapped.ids == whole.ids[count:]
    assert delivered + trapped.text != whole.text


@PATHS
def test_stop_strings_end_the_answer_and_hold_back_text_of_their_length(engine: Engine, path: str) -> None:
    free = stream(engine, path, max_tokens=120)
    stop = free.text[40:44]
    received = stream(engine, path, max_tokens=120, stop=[stop])
    assert received.text == free.text.partition(stop)[0]
    assert received.finish_reasons == ["stop"]
    never = "\x00" * 9
    held = stream(engine, path, max_tokens=120, stop=[never])
    assert held.text == free.text
    lengths = free.lengths()
    compared = [
        (lengths[count], length) for count, length in held.lengths().items() if count < 120 and count in lengths
    ]
    assert len(compared) > 50
    assert all(length == max(0, free_length - len(never) + 1) for free_length, length in compared)


@PATHS
def test_an_answer_without_ignore_eos_ends_with_stop_or_length(engine: Engine, path: str) -> None:
    received = stream(engine, path, max_tokens=1500, ignore_eos=False)
    assert received.finish_reasons in (["stop"], ["length"])
    if path == CHAT:
        assert received.finish_reasons == ["stop"], "the model was trained to end its answers"


def test_token_limits_have_the_meaning_that_continuation_assumes(engine: Engine) -> None:
    short = {**BODIES[PLAIN], "ignore_eos": True}
    del short["max_tokens"]
    assert post(engine, PLAIN, short).json()["usage"]["completion_tokens"] == 16
    assert post(engine, PLAIN, {**BODIES[PLAIN], "max_tokens": 4, "min_tokens": 5}).status_code == 400
    assert post(engine, PLAIN, {**BODIES[PLAIN], "max_tokens": 0}).status_code == 400
    assert post(engine, PLAIN, {**short, "max_tokens": None}).json()["usage"]["completion_tokens"] == 16
    endless = {**BODIES[CHAT], "max_tokens": None, "stream": True}
    with httpx.stream("POST", engine.url + CHAT, json=endless) as response:
        assert response.status_code == 200
        received = b""
        for data in response.iter_bytes():  # the rest of the context is not waited for
            received += data
            if received.count(b"data: ") > 40:
                break
    assert received.count(b"data: ") > 40


def test_an_echo_has_the_prompts_text_for_text_and_its_logprobs_for_text_and_ids(engine: Engine) -> None:
    with_logprobs = stream(engine, PLAIN, echo=True, logprobs=1)
    plain = stream(engine, PLAIN, echo=True, logprobs=1, return_token_ids=False)
    alone = stream(engine, PLAIN, echo=True, logprobs=1, return_token_ids=False, max_tokens=0)
    answer, prompt = stream(engine, PLAIN), BODIES[PLAIN]["prompt"]
    assert (with_logprobs.text, with_logprobs.ids, with_logprobs.prompt_ids) == (
        answer.text,
        answer.ids,
        answer.prompt_ids,
    )
    assert (plain.text, plain.ids) == (prompt + answer.text, [])
    assert (alone.text, alone.ids, alone.finish_reasons) == (prompt, [], ["length"])
    first, second, prompts = [received.choices[0]["logprobs"]["tokens"] for received in (with_logprobs, plain, alone)]
    scored = len(with_logprobs.prompt_ids)
    assert len(prompts) == scored < min(len(first), len(second)), "the answer's first tokens, however many were joined"
    assert first[:scored] == second[:scored] == prompts
    of_ids = stream(engine, PLAIN, prompt=with_logprobs.prompt_ids, echo=True, return_token_ids=False, max_tokens=0)
    assert of_ids.text == prompt


def test_errors_have_openais_format(engine: Engine) -> None:
    unknown = post(engine, CHAT, {**BODIES[CHAT], "model": "nope"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == 404
    broken = httpx.post(engine.url + CHAT, content=b'{"model":', headers={"content-type": "application/json"})
    assert broken.status_code == 400
    assert broken.json()["error"]["message"]


def test_the_request_id_is_a_part_of_the_answers_id(engine: Engine) -> None:
    answer = httpx.post(
        engine.url + CHAT, json={**BODIES[CHAT], "max_tokens": 1}, headers={"x-request-id": "abc"}, timeout=60
    )
    assert answer.json()["id"] == "chatcmpl-abc"


def test_detokenize_reverses_tokenize(engine: Engine) -> None:
    text = "hello 東京 🎉"
    tokens = post(engine, "/tokenize", {"model": MODEL, "prompt": text}).json()["tokens"]
    assert post(engine, "/detokenize", {"model": MODEL, "tokens": tokens}).json()["prompt"] == text


def test_health_version_models_and_metrics_routes_have_the_expected_contents(engine: Engine) -> None:
    assert httpx.get(f"{engine.url}/health").status_code == 200
    assert httpx.get(f"{engine.url}/version").json()["version"].startswith("0.32")
    assert httpx.get(f"{engine.url}/v1/models").json()["data"][0]["id"] == MODEL
    metrics = httpx.get(f"{engine.url}/metrics").text
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert f"\n{name}{{" in f"\n{metrics}"


def test_a_client_that_disconnects_ends_its_request(engine: Engine) -> None:
    body = {**BODIES[CHAT], "stream": True, "max_tokens": 3000}
    with httpx.stream("POST", engine.url + CHAT, json=body) as response:
        next(response.iter_bytes())
    give_up_at = time.monotonic() + 10
    while running_requests(engine):
        assert time.monotonic() < give_up_at, "the engine still generates after the client disconnected"
        time.sleep(0.02)


def running_requests(engine: Engine) -> float:
    lines = httpx.get(f"{engine.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_a_stream_cut_by_sigterm_has_no_complete_finish_reason(engine: Engine) -> None:
    """Runs last, because it ends the engine. vLLM sends `abort`, an error, `[DONE]` or nothing, depending on timing."""
    body = {**BODIES[CHAT], "stream": True, "max_tokens": 3000}
    received, parser, terminated = Streamed(), SseParser(), False
    with (
        contextlib.suppress(httpx.HTTPError),  # a reset is an unambiguous loss
        httpx.stream("POST", engine.url + CHAT, json=body, timeout=10) as response,
    ):
        for data in response.iter_bytes():
            for _, event in parser.feed(data):
                chunk = {} if event == b"[DONE]" else json.loads(event)
                if "choices" in chunk:
                    received.chunks.append(chunk)
            if len(received.chunks) >= 20 and not terminated:
                terminated = True
                engine.terminate()
    assert len(received.chunks) >= 20
    assert COMPLETE_REASONS.isdisjoint(received.finish_reasons)
