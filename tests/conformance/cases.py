"""The requests that are sent to vLLM and to a node in front of it, and their permitted differences.

Well-formed, odd and wrong ones, for every route. `{model}` in a path or a body is the served model's name. A case's
`differs` names the differences (`tests/conformance/differences`) that it is there to show.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MODEL = "tiny"
JSON = {"content-type": "application/json"}
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"
RESPONSES_PATH, MESSAGES_PATH = "/v1/responses", "/v1/messages"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Tell me a story."}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 5}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": "It was a dark night", "temperature": 0, "max_tokens": 5}
RESPONSE: dict[str, Any] = {"model": MODEL, "input": "Tell me a story.", "temperature": 0, "max_output_tokens": 5}
MESSAGE: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 5}


@dataclass(frozen=True)
class Case:
    """A request. differs: names of its documented differences."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    differs: tuple[str, ...] = ()


def _json(name: str, path: str, body: Any, *differs: str, **headers: str) -> Case:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(name, "POST", path, json.dumps(body).encode(), JSON | named, differs)


def _raw(name: str, path: str, body: bytes, *differs: str, **headers: str) -> Case:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(name, "POST", path, body, JSON | named, differs)


NOT_EMULATED = (
    "half a surrogate", "a large number", "detokenize:", "tokenize: another model", "tokenize: a long name",
    "responses: delete", "body: of no type",
)  # fmt: skip
"""Parts of the names of cases that the fake engine does not emulate."""

TRUE: tuple[Any, ...] = ("true", "True", "yes", "on", "t", "y", "1", 1, 1.0)
FALSE: tuple[Any, ...] = ("false", "no", "off", "f", "n", "0", 0, 0.0, None)
NEITHER: tuple[Any, ...] = ("maybe", "", 2, -1, 0.5, [], {}, ["true"])
WHOLE: tuple[Any, ...] = (5.0, "5", " 5 ", "+5", "5.0", "0_5", True)
NOT_WHOLE: tuple[Any, ...] = (5.5, "five", "", "5.5", "1e1", [5], {}, -1, 1e30, "0x5")
FIELDS: dict[str, tuple[Any, ...]] = {
    "stop": ("a", ["a", "b"], [], None, "", [""], 5, [5], ["a"] * 5),
    "temperature": (0.0, "0", "0.0", 1, None, True, "warm", -1, "nan", 1e400),
    "seed": (7, "7", 7.0, None, -1, 2**63, "x"),
    "logit_bias": ({"5": 1}, {"5": "1"}, None, {"x": 1}, [1]),
    "user": ("u", None, 5),
    "min_tokens": (1, "1", None, 6, -1),
    "ignore_eos": (True, "yes", None, 5),
    "include_stop_str_in_output": (True, "no", None, "maybe"),
    "top_p": (0.5, "0.5", 0, 2),
    "repetition_penalty": (1.1, "1.1", 0),
    "frequency_penalty": (0.5, "0", 5),
    "return_token_ids": (True, "true", "off", None, "maybe"),
    "response_format": ({"type": "text"}, {"type": "json_object"}, {"type": "json_schema"}, {"type": "?"}, "text"),
    "vllm_xargs": ({"mine": 1}, {"mine": [1, "a"]}, {"mine": None}, "x", [1], None),
    "cache_salt": ("salt", "", 5),
    "priority": (0, "0", 1),
    "nobody_knows_this": (1, None, [{}]),
}


def _fields() -> Iterator[Case]:
    """Yield cases for each field that the node reads, and some others, with all kinds of values, on both routes."""
    for route, path, base in (("chat", CHAT_PATH, CHAT), ("text", TEXT_PATH, TEXT)):
        for stream in TRUE + FALSE + NEITHER:
            yield _json(f"{route}: stream={stream!r}", path, {**base, "stream": stream})
        for value in WHOLE + NOT_WHOLE:
            yield _json(f"{route}: max_tokens={value!r}", path, {**base, "max_tokens": value})
            yield _json(f"{route}: max_tokens={value!r}, streamed", path, {**base, "max_tokens": value, "stream": True})
        for n in (1, "1", 1.0, None, 0, -1, "two", 1.5, True):
            yield _json(f"{route}: n={n!r}", path, {**base, "n": n})
            yield _json(f"{route}: n={n!r}, streamed", path, {**base, "n": n, "stream": True})
        for name, values in FIELDS.items():
            for value in values:
                body = {"seed": 1, **base, name: value, "stream": True}
                yield _json(f"{route}: {name}={value!r}"[:80], path, body)
        for options in ({"include_usage": True}, {"include_usage": "t"}, {"include_usage": "no"}, {}, None, "yes", [1]):
            body = {**base, "stream": True, "stream_options": options}
            yield _json(f"{route}: stream_options={options!r}", path, body)
            yield _json(f"{route}: stream_options={options!r}, whole", path, {**body, "stream": False})
        body = {**base, "stream": "off", "stream_options": {"include_usage": True}}
        yield _json(f"{route}: stream_options and stream=off", path, body)
        running = {"include_usage": 1, "continuous_usage_stats": "yes"}
        yield _json(f"{route}: usage all along", path, {**base, "stream": True, "stream_options": running})


def _models() -> Iterator[Case]:
    for route, path, base in (
        ("chat", CHAT_PATH, CHAT),
        ("text", TEXT_PATH, TEXT),
        ("responses", RESPONSES_PATH, RESPONSE),
        ("messages", MESSAGES_PATH, MESSAGE),
        ("tokenize", "/tokenize", {"model": MODEL, "prompt": "a"}),
    ):
        none = {key: value for key, value in base.items() if key != "model"}
        yield _json(f"{route}: no model", path, none)
        models: tuple[Any, ...] = (None, "", 5, [], {"a": 1})
        for model in models:
            yield _json(f"{route}: model={model!r}", path, {**base, "model": model})
        yield _json(f"{route}: another model", path, {**base, "model": "another"}, "model-not-found")
        if path != "/tokenize":
            yield _json(f"{route}: no model, streamed", path, {**none, "stream": True})
            yield _json(
                f"{route}: another model, streamed", path, {**base, "model": "b", "stream": True}, "model-not-found"
            )
        yield _json(f"{route}: another name", path, {**base, "model": "tiny-too"})
        yield _json(f"{route}: a long name", path, {**base, "model": "x" * 50_000}, "model-not-found")


def _chats() -> Iterator[Case]:
    def chat(name: str, *differs: str, **fields: Any) -> Iterator[Case]:
        yield _json(f"chat: {name}", CHAT_PATH, {**CHAT, **fields}, *differs)
        yield _json(f"chat: {name}, streamed", CHAT_PATH, {**CHAT, **fields, "stream": True}, *differs)

    yield from chat("as usual")
    yield from chat("two choices", n=2, temperature=1, seed=1)
    yield from chat("logprobs", logprobs=True, top_logprobs=2)
    yield from chat("logprobs=yes", logprobs="yes")
    yield from chat("logprobs=off", logprobs="off")
    yield from chat("top_logprobs without logprobs", top_logprobs=2)
    yield from chat("max_completion_tokens", max_completion_tokens="3")
    yield from chat("max_completion_tokens=null", max_completion_tokens=None)
    yield from chat("no messages", messages=[])
    yield from chat("messages=null", messages=None)
    yield from chat("messages is a text", messages="hello")
    yield from chat("a message without a role", messages=[{"content": "x"}])
    yield from chat("an unknown role", messages=[{"role": "king", "content": "x"}])
    yield from chat("parts", messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}])
    yield from chat(
        "an image",
        "media-not-allowed",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    )
    yield from chat("a system prompt", messages=[{"role": "system", "content": "Be kind."}, *MESSAGES])
    yield from chat("echo", echo=True)
    yield from chat("echo=no", echo="no")
    yield from chat("tools=[]", tools=[])
    yield from chat("a tool", tools=[{"type": "function", "function": {"name": "look"}}], tool_choice="none")
    yield from chat("a tool choice without tools", tool_choice="auto")
    yield from chat("a tool of another type", tools="look")
    yield from chat("include_reasoning=false", include_reasoning=False)
    yield from chat("include_reasoning=no", include_reasoning="no")
    yield from chat("use_beam_search", use_beam_search=True, n=2)
    yield from chat("use_beam_search=false", use_beam_search="false")
    yield from chat("chat_template_kwargs", chat_template_kwargs={"a": "\ud800"}, user="\U0001f680")
    yield from chat("too long", messages=[{"role": "user", "content": "word " * 9_000}])
    yield from chat("too many tokens", max_tokens=100_000)
    yield from chat("structured outputs", structured_outputs={"choice": ["yes", "no"]})
    yield from chat("two structured outputs", structured_outputs={"choice": ["yes"], "regex": "a"})
    yield from chat("prompt_logprobs", prompt_logprobs=1)
    yield _json("chat: GET parameters", CHAT_PATH + "?a=b", CHAT)
    batch = {**CHAT, "messages": [MESSAGES, MESSAGES]}
    yield _json("batch: as usual", CHAT_PATH + "/batch", batch)
    yield _json("batch: no conversation", CHAT_PATH + "/batch", {**batch, "messages": []})
    yield _json("batch: n", CHAT_PATH + "/batch", {**batch, "n": 2})
    yield _json("batch: another model", CHAT_PATH + "/batch", {**batch, "model": "another"}, "model-not-found")


def _texts() -> Iterator[Case]:
    def text(name: str, *differs: str, **fields: Any) -> Iterator[Case]:
        yield _json(f"text: {name}", TEXT_PATH, {**TEXT, **fields}, *differs)
        yield _json(f"text: {name}, streamed", TEXT_PATH, {**TEXT, **fields, "stream": True}, *differs)

    yield from text("as usual")
    yield from text("ids", prompt=[300, 257])
    yield from text("ids as numbers with a point", prompt=[300.0, 257])
    yield from text("ids as texts and numbers", prompt=[300, "257"])
    yield from text("several prompts", prompt=["a dark", "It was"])
    yield from text("several prompts of ids", prompt=[[300, 257], [300]])
    yield from text("prompts of two kinds", prompt=["a", [300]])
    yield from text("a hundred and fifty prompts", prompt=["It was"] * 150, max_tokens=1)
    yield from text("too many prompts", "too-many-answers", prompt=["It was"] * 1_025, max_tokens=1)
    yield from text("too many choices", "too-many-answers", n=1_025, temperature=1, max_tokens=1)
    yield from text("an id that is none", prompt=[999_999])
    yield from text("a negative id", prompt=[-1])
    yield from text("prompt=null", prompt=None)
    yield from text("prompt is empty", prompt="")
    yield from text("prompt=[]", prompt=[])
    yield from text("prompt is an object", prompt={"a": 1})
    yield from text("prompt is a number", prompt=5)
    yield from text("prompt_embeds", "field-not-allowed", prompt_embeds="AAAA")
    yield from text("far too long", "prompt-bound", prompt="word " * 30_000)
    for echo in (True, "yes", "false", None, 5):
        yield from text(f"echo={echo!r}", echo=echo)
    yield from text("echo of ids", echo=True, prompt=[300, 257])
    yield from text("only an echo", echo=True, max_tokens=0)
    yield from text("max_tokens=0", max_tokens=0)
    yield from text("max_tokens=null", max_tokens=None)
    yield from text("two choices", n="2", temperature=1, seed=1)
    yield from text("n=2 greedily", n=2)
    for count in (0, 1, "1", 1.0, "x", True):
        yield from text(f"logprobs={count!r}", logprobs=count)
    for count in (-1, 50):
        yield from text(f"logprobs={count!r}", "limit-exceeded", logprobs=count)
    yield from text("suffix", suffix="x")
    yield from text("too long", prompt="word " * 9_000)
    yield from text("best_of", best_of=2)


def _events() -> Iterator[Case]:
    def response(name: str, *differs: str, **fields: Any) -> Iterator[Case]:
        yield _json(f"responses: {name}", RESPONSES_PATH, {**RESPONSE, **fields}, *differs)
        yield _json(f"responses: {name}, streamed", RESPONSES_PATH, {**RESPONSE, **fields, "stream": True}, *differs)

    def message(name: str, *differs: str, **fields: Any) -> Iterator[Case]:
        yield _json(f"messages: {name}", MESSAGES_PATH, {**MESSAGE, **fields}, *differs)
        yield _json(f"messages: {name}, streamed", MESSAGES_PATH, {**MESSAGE, **fields, "stream": True}, *differs)

    yield from response("as usual")
    yield from response("messages", input=[{"role": "user", "content": "hello"}])
    yield from response("input=null", input=None)
    yield from response("input is a number", input=5)
    yield from response("instructions", instructions="Be kind.")
    yield from response("logprobs", include=["message.output_text.logprobs"], top_logprobs=1)
    yield from response("include is no list", include="x")
    yield from response("an unknown include", include=["x"])
    yield from response("max_output_tokens=5.0", max_output_tokens=5.0)
    yield from response("max_output_tokens=five", max_output_tokens="five")
    yield from response("background without a store", background=True, store=False)
    yield from response("from one that is not there", previous_response_id="resp_0")
    for stream in ("true", "off", "maybe", 1):
        yield _json(f"responses: stream={stream!r}", RESPONSES_PATH, {**RESPONSE, "stream": stream})
        yield _json(f"messages: stream={stream!r}", MESSAGES_PATH, {**MESSAGE, "stream": stream})
    yield Case("responses: one that is not there", "GET", RESPONSES_PATH + "/resp_0")
    yield Case("responses: cancel one that is not there", "POST", RESPONSES_PATH + "/resp_0/cancel")
    yield Case("responses: delete", "DELETE", RESPONSES_PATH + "/resp_0", differs=("method-not-allowed",))
    yield from message("as usual")
    yield from message("a system prompt", system="Be kind.")
    yield from message("max_tokens=null", max_tokens=None)
    yield from message("max_tokens as a text", max_tokens="5")
    yield from message("max_tokens=0", max_tokens=0)
    yield from message("stop sequences", stop_sequences=["a"])
    yield from message("no messages", messages=[])
    yield from message("messages is a text", messages="hello")
    yield from message("an unknown role", messages=[{"role": "king", "content": "x"}])
    yield from message("too long", messages=[{"role": "user", "content": "word " * 9_000}])
    yield _json("messages: count", MESSAGES_PATH + "/count_tokens", {"model": MODEL, "messages": MESSAGES})
    yield _json("messages: count without messages", MESSAGES_PATH + "/count_tokens", {"model": MODEL})


def _bodies() -> Iterator[Case]:
    """Yield bodies that some JSON parsers accept, and invalid ones."""
    text = json.dumps(CHAT)
    for name, raw in (
        ("a byte order mark", b"\xef\xbb\xbf" + text.encode()),
        ("UTF-16", text.encode("utf-16")),
        ("UTF-16 without a mark", text.encode("utf-16-le")),
        ("UTF-32", text.encode("utf-32")),
        ("white space", b" \n" + text.encode() + b"\r\n\t"),
        ("a name twice", text.encode()[:-1] + b',"max_tokens":2}'),
        ("NaN", text.encode()[:-1] + b',"top_p":NaN}'),
        ("NaN in an unread field", text.encode()[:-1] + b',"nobody_reads":NaN}'),
        ("infinity", text.encode()[:-1] + b',"top_p":1e999}'),
        ("half a surrogate pair", text.encode()[:-1] + b',"user":"\\ud800"}'),
        ("half a surrogate pair in a message", text.encode().replace(b"story", b"\\ud800")),
        ("300 levels", text.encode()[:-1] + b',"metadata":' + b"[" * 300 + b"]" * 300 + b"}"),
        ("an object", b"{}"),
    ):
        yield _raw(f"body: {name}", CHAT_PATH, raw)
        yield _raw(f"body: {name}, streamed", CHAT_PATH, raw.replace(b'"temperature"', b'"stream":true,"temperature"'))
    yield _raw("body: a large number", CHAT_PATH, text.encode()[:-1] + b',"seed":18446744073709551616}', "large-number")
    for name, raw in (
        ("no JSON", b"hello"),
        ("cut", text.encode()[:-1]),
        ("more behind it", text.encode() + b"x"),
        ("Latin-1", text.encode()[:-1] + b',"user":"\xe9"}'),
        ("100,000 levels", b"[" * 100_000),
        ("a comma too much", text.encode()[:-1] + b",}"),
    ):
        yield _raw(f"body: {name}", CHAT_PATH, raw, "own-error")
    for name, raw in (
        ("nothing", b""),
        ("null", b"null"),
        ("a list", b"[]"),
        ("a text", b'"hello"'),
        ("a number", b"5"),
    ):
        yield _raw(f"body: {name}", CHAT_PATH, raw)
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
    ):
        yield Case(f"body: as {kind}", "POST", CHAT_PATH, text.encode(), {"content-type": kind})
    yield Case(
        "body: as application/ld+json", "POST", CHAT_PATH, text.encode(), {"content-type": "application/ld+json"}
    )
    yield Case("body: of no type", "POST", CHAT_PATH, text.encode())
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
    multipart = {"content-type": "multipart/form-data; boundary=x"}
    audio = "/v1/audio/transcriptions"
    yield Case("audio: of a model for texts", "POST", audio, form, multipart, differs=("unknown-route",))


def _routes() -> Iterator[Case]:
    for path in ("/health", "/ping", "/load", "/version", "/v1/models"):
        yield Case(f"route: {path}", "GET", path)
        yield Case(f"route: {path}/", "GET", path + "/")
        if path != "/ping":  # of whose two methods FastAPI names one
            yield Case(f"route: DELETE {path}", "DELETE", path, differs=("method-not-allowed",))
    yield Case("route: POST /ping", "POST", "/ping")
    yield Case("route: /v1/models/{model}", "GET", f"/v1/models/{MODEL}", differs=("unknown-route",))
    for path in (CHAT_PATH, TEXT_PATH, RESPONSES_PATH, MESSAGES_PATH, "/tokenize", "/detokenize"):
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            yield Case(f"route: {method} {path}", method, path, differs=("method-not-allowed",))
        yield _json(f"route: {path}/", path + "/", CHAT)
        yield Case(f"route: {path}/?a=b", "POST", path + "/?a=b", b"{}", JSON)
    for path in (
        "/rerank",
        "/score",
        "/pooling",
        "/classify",
        "/v1/embeddings",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/score",
    ):
        yield _json(f"route: {path}", path, {"model": MODEL, "input": "a"})
    for path in ("/nothing", "/v2", "/", "/v1", "/%2e%2e/health", "//health"):
        yield Case(f"route: {path}", "GET", path, differs=("unknown-route",))
    for path in ("/v1/nothing", "/v1/", "/v1/chat", "/v1//models"):
        yield Case(f"route: GET {path}", "GET", path, differs=("unknown-route",))
    yield _json("tokenize: a prompt", "/tokenize", {"model": MODEL, "prompt": "It was"})
    yield _json("tokenize: a chat", "/tokenize", {"model": MODEL, "messages": MESSAGES})
    yield _json("tokenize: words", "/tokenize", {"model": MODEL, "prompt": "It was", "return_token_strs": True})
    yield _json("tokenize: nothing", "/tokenize", {"model": MODEL})
    yield _json("tokenize: too long", "/tokenize", {"prompt": "word " * 30_000}, "tokenize-bound")
    yield _json("detokenize: ids", "/detokenize", {"model": MODEL, "tokens": [300, 257]})
    yield _json("detokenize: no ids", "/detokenize", {"model": MODEL, "tokens": ["a"]})


def _headers() -> Iterator[Case]:
    for stream in (False, True):
        how = "streamed" if stream else "whole"
        body = {**CHAT, "stream": stream}
        yield _json(f"headers: X-Request-Id, {how}", CHAT_PATH, body, x_request_id="mine-1")
        yield _json(
            f"headers: traceparent, {how}", CHAT_PATH, body, traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        )
        yield _json(f"headers: an SDK's, {how}", CHAT_PATH, body, accept="application/json", x_stainless_lang="python")
        yield _json(f"headers: all accepted, {how}", CHAT_PATH, body, accept="*/*")
        yield _json(f"headers: load metrics, {how}", CHAT_PATH, body, endpoint_load_metrics_format="JSON")
    yield _json("headers: X-Request-Id of an error", CHAT_PATH, {**CHAT, "n": "x"}, x_request_id="mine-2")
    yield Case("headers: X-Request-Id of a route", "GET", "/version", headers={"x-request-id": "mine-3"})
    yield Case("headers: X-Request-Id of health", "GET", "/health", headers={"x-request-id": "mine-4"})
    yield _json("headers: Origin", CHAT_PATH, CHAT, "cors", origin="https://example.com")


def all_cases() -> list[Case]:
    """Return all cases; their names are unique."""
    parts: Iterable[Iterator[Case]] = (
        _fields(), _models(), _chats(), _texts(), _events(), _bodies(), _routes(), _headers(),
    )  # fmt: skip
    cases = [case for part in parts for case in part]
    assert len({case.name for case in cases}) == len(cases)
    return cases
