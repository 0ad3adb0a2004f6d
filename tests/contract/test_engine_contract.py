"""What Synkti relies on in vLLM 0.32's protocol, asked of the fake engine and of a real vLLM alike."""

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
    """A streamed answer, taken apart."""

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
        """How long the text was after so many ids."""
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
    heard, parser = Streamed(), SseParser()
    with httpx.stream("POST", engine.url + path, json=body, timeout=60) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for data in response.iter_bytes():
            for _, event in parser.feed(data):
                if event == b"[DONE]":
                    heard.done = True
                else:
                    heard.chunks.append(json.loads(event))
    return heard


def post(engine: Engine, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(engine.url + path, json=body, timeout=60)


@PATHS
def test_a_stream_has_ids_in_every_chunk_a_finish_reason_and_an_end(engine: Engine, path: str) -> None:
    heard = stream(engine, path)
    assert heard.done
    assert len(heard.ids) == TOKENS
    assert heard.finish_reasons == ["length"]
    assert heard.choices[-1]["finish_reason"] == "length"
    assert {chunk["object"] for chunk in heard.chunks} == {
        "chat.completion.chunk" if path == CHAT else "text_completion"
    }
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in heard.chunks}) == 1
    assert all(isinstance(token, int) for token in heard.prompt_ids)
    generating = heard.choices[1:] if path == CHAT else heard.choices
    assert all(choice["token_ids"] for choice in generating)
    if path == CHAT:
        assert heard.choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert "token_ids" not in heard.choices[0]


@PATHS
def test_the_same_question_has_the_same_answer_streamed_or_not(engine: Engine, path: str) -> None:
    heard, whole = stream(engine, path), post(engine, path, BODIES[path]).json()
    choice = whole["choices"][0]
    assert heard.text == (choice["message"]["content"] if path == CHAT else choice["text"])
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == TOKENS
    assert whole["usage"]["prompt_tokens"] == len(heard.prompt_ids)
    assert heard.text == stream(engine, path).text


@PATHS
def test_usage_comes_last_and_only_when_asked_for(engine: Engine, path: str) -> None:
    assert all(not chunk.get("usage") for chunk in stream(engine, path).chunks)
    last = stream(engine, path, stream_options={"include_usage": True}).chunks[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == TOKENS


@PATHS
def test_a_character_of_several_tokens_comes_whole_with_its_last_one(engine: Engine, path: str) -> None:
    heard = stream(engine, path, max_tokens=200)
    empty = [
        choice for choice, text in zip(heard.choices, heard.texts, strict=True) if choice.get("token_ids") and not text
    ]
    assert empty, "no character of several tokens: the model answers in ASCII only"
    decoded = post(engine, "/detokenize", {"model": MODEL, "tokens": heard.ids}).json()["prompt"]
    # A stream leaves out special tokens, of which the model of this machine may say some in the middle.
    assert heard.text.replace("\ufffd", "") in SPECIAL.sub("", decoded).replace("\ufffd", "")


def test_going_on_from_any_mark_is_exact_and_from_inside_a_character_it_is_not(engine: Engine) -> None:
    """The rewind rule and its reason: a mark is where a single id came with a text."""
    length = 200
    whole = stream(engine, CHAT, max_tokens=length)
    marks: list[tuple[int, str]] = []
    inside: list[tuple[int, str]] = []
    text = ""
    count = 0
    for choice in whole.choices[1:]:
        count += len(choice["token_ids"])
        piece = choice["delta"].get("content") or ""
        text += piece
        if len(choice["token_ids"]) == 1:  # several at once, because this client was slow, are no mark
            (marks if piece else inside).append((count, text))
    assert inside
    for count, delivered in (marks[0], marks[len(marks) // 2], marks[-2]):
        rest = stream(engine, PLAIN, prompt=whole.prompt_ids + whole.ids[:count], max_tokens=length - count)
        assert rest.ids == whole.ids[count:]
        assert delivered + rest.text == whole.text
    count, delivered = inside[0]
    trapped = stream(engine, PLAIN, prompt=whole.prompt_ids + whole.ids[:count], max_tokens=length - count)
    assert trapped.ids == whole.ids[count:]
    assert delivered + trapped.text != whole.text


@PATHS
def test_stop_strings_end_the_answer_and_hold_text_back_until_then(engine: Engine, path: str) -> None:
    free = stream(engine, path, max_tokens=120)
    stop = free.text[40:44]
    heard = stream(engine, path, max_tokens=120, stop=[stop])
    assert heard.text == free.text.partition(stop)[0]
    assert heard.finish_reasons == ["stop"]
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
def test_an_answer_ends_by_itself(engine: Engine, path: str) -> None:
    heard = stream(engine, path, max_tokens=1500, ignore_eos=False)
    assert heard.finish_reasons in (["stop"], ["length"])
    if path == CHAT:
        assert heard.finish_reasons == ["stop"], "the model was taught to end its answers"


def test_limits_mean_what_the_continuation_takes_them_for(engine: Engine) -> None:
    short = {**BODIES[PLAIN], "ignore_eos": True}
    del short["max_tokens"]
    assert post(engine, PLAIN, short).json()["usage"]["completion_tokens"] == 16
    assert post(engine, PLAIN, {**BODIES[PLAIN], "max_tokens": 4, "min_tokens": 5}).status_code == 400
    assert post(engine, PLAIN, {**BODIES[PLAIN], "max_tokens": 0}).status_code == 400
    assert post(engine, PLAIN, {**short, "max_tokens": None}).json()["usage"]["completion_tokens"] == 16
    endless = {**BODIES[CHAT], "max_tokens": None, "stream": True}
    with httpx.stream("POST", engine.url + CHAT, json=endless) as response:
        assert response.status_code == 200
        heard = b""
        for data in response.iter_bytes():  # the rest of the context, which nobody waits for here
            heard += data
            if heard.count(b"data: ") > 40:
                break
    assert heard.count(b"data: ") > 40


def test_an_echo_is_the_prompts_text_or_its_ids_and_its_logprobs_in_any_case(engine: Engine) -> None:
    told = stream(engine, PLAIN, echo=True, logprobs=1)
    plain = stream(engine, PLAIN, echo=True, logprobs=1, return_token_ids=False)
    alone = stream(engine, PLAIN, echo=True, logprobs=1, return_token_ids=False, max_tokens=0)
    answer, prompt = stream(engine, PLAIN), BODIES[PLAIN]["prompt"]
    assert (told.text, told.ids, told.prompt_ids) == (answer.text, answer.ids, answer.prompt_ids)
    assert (plain.text, plain.ids) == (prompt + answer.text, [])
    assert (alone.text, alone.ids, alone.finish_reasons) == (prompt, [], ["length"])
    first, second, prompts = [heard.choices[0]["logprobs"]["tokens"] for heard in (told, plain, alone)]
    scored = len(told.prompt_ids)
    assert len(prompts) == scored < min(len(first), len(second)), "the answer's first tokens, however many were joined"
    assert first[:scored] == second[:scored] == prompts
    of_ids = stream(engine, PLAIN, prompt=told.prompt_ids, echo=True, return_token_ids=False, max_tokens=0)
    assert of_ids.text == prompt


def test_errors_are_openais(engine: Engine) -> None:
    unknown = post(engine, CHAT, {**BODIES[CHAT], "model": "nope"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == 404
    broken = httpx.post(engine.url + CHAT, content=b'{"model":', headers={"content-type": "application/json"})
    assert broken.status_code == 400
    assert broken.json()["error"]["message"]


def test_the_request_id_becomes_the_answers_id(engine: Engine) -> None:
    answer = httpx.post(
        engine.url + CHAT, json={**BODIES[CHAT], "max_tokens": 1}, headers={"x-request-id": "abc"}, timeout=60
    )
    assert answer.json()["id"] == "chatcmpl-abc"


def test_tokens_and_texts_are_each_others(engine: Engine) -> None:
    text = "hello 東京 🎉"
    tokens = post(engine, "/tokenize", {"model": MODEL, "prompt": text}).json()["tokens"]
    assert post(engine, "/detokenize", {"model": MODEL, "tokens": tokens}).json()["prompt"] == text


def test_the_routes_that_are_watched(engine: Engine) -> None:
    assert httpx.get(f"{engine.url}/health").status_code == 200
    assert httpx.get(f"{engine.url}/version").json()["version"].startswith("0.32")
    assert httpx.get(f"{engine.url}/v1/models").json()["data"][0]["id"] == MODEL
    metrics = httpx.get(f"{engine.url}/metrics").text
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert f"\n{name}{{" in f"\n{metrics}"


def test_a_client_that_goes_away_ends_its_request(engine: Engine) -> None:
    body = {**BODIES[CHAT], "stream": True, "max_tokens": 3000}
    with httpx.stream("POST", engine.url + CHAT, json=body) as response:
        next(response.iter_bytes())
    give_up_at = time.monotonic() + 10
    while running_requests(engine):
        assert time.monotonic() < give_up_at, "the engine goes on generating for nobody"
        time.sleep(0.02)


def running_requests(engine: Engine) -> float:
    lines = httpx.get(f"{engine.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_a_stream_that_sigterm_cuts_never_looks_whole_to_us(engine: Engine) -> None:
    """The last test: it ends the engine. vLLM says `abort`, an error, `[DONE]`, or nothing, as it happens to fall."""
    body = {**BODIES[CHAT], "stream": True, "max_tokens": 3000}
    heard, parser, told = Streamed(), SseParser(), False
    with (
        contextlib.suppress(httpx.HTTPError),  # a reset is a loss that nobody can overlook
        httpx.stream("POST", engine.url + CHAT, json=body, timeout=10) as response,
    ):
        for data in response.iter_bytes():
            for _, event in parser.feed(data):
                chunk = {} if event == b"[DONE]" else json.loads(event)
                if "choices" in chunk:
                    heard.chunks.append(chunk)
            if len(heard.chunks) >= 20 and not told:
                told = True
                engine.terminate()
    assert len(heard.chunks) >= 20
    assert COMPLETE_REASONS.isdisjoint(heard.finish_reasons)
