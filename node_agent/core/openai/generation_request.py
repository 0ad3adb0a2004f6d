"""Parse generation requests as vLLM 0.32 accepts them; `core/openai/chunks` handles the responses.

A request is parsed once, into a frozen `GenerationRequest`, from which the engine's request and the client's response
are derived. Fields that the client did not request (token ids, usage) are added for the engine and removed for the
client.

Fields are parsed as the engine parses them (`core/common/lax_values`). A request that cannot be parsed so is proxied
without continuation (`PassThroughRequest`): the engine rejects it, in its own words, or it alone understands it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson

from node_agent.contract.errors import RequestRejected
from node_agent.core.access.token_estimate import Estimate, estimate
from node_agent.core.common.lax_values import read_bool, read_float, read_int
from node_agent.core.common.packed_json import PackedJson
from node_agent.core.openai.request_body import INTERNAL_ARG_PREFIX, Body, read_body
from node_agent.core.routing.affinity import conversation_key, prompt_key

MAX_CHOICES = 1_024
"""Bounds the choices of one request, of all its prompts together, and so the histories of one stream. vLLM accepts as
many prompts; its own bound of choices, 16,384, would delay every other request for seconds."""

PER_TOKEN = INTERNAL_ARG_PREFIX + "apart"
"""Requests that an engine with the plug-in passes every id to its parsers separately, however busy it is."""


class ApiRoute(Enum):
    """The routes whose streams can continue.

    Two have chunks (`core/streams/chunk_stream`), two have named events (`core/streams/event_stream`).
    """

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"

    @property
    def uses_named_events(self) -> bool:
        """True when the route's streams have named events, and no chunks with token ids."""
        return self in (ApiRoute.RESPONSES, ApiRoute.MESSAGES)


class PassThroughRequest(ValueError):
    """A request that only an engine can answer, even with an error: it is proxied as it is, and not continued."""


_PROMPT_FIELD = {
    ApiRoute.CHAT: "messages",
    ApiRoute.COMPLETION: "prompt",
    ApiRoute.RESPONSES: "input",
    ApiRoute.MESSAGES: "messages",
}


@dataclass(frozen=True)
class GenerationRequest:
    """A client's generation request, parsed once."""

    route: ApiRoute
    body: PackedJson
    """The body, with the fields that are parsed here in the engine's types."""
    model: str
    streaming: bool
    wants_ids: bool
    wants_usage: bool
    wants_running_usage: bool
    choices: int
    """Answers to generate, of all prompts together."""
    prompt_count: int
    """Prompts of a completion, 0 on other routes."""
    echoes: tuple[str, ...]
    """Texts of a completion's prompts, () where they are unknown or not requested."""
    max_tokens: int | None
    """None where the engine decides."""
    stop: tuple[str, ...]
    """The strings that end the answer."""
    affinity_key: int | None
    """Key of the prompt's prefix (`core/routing/affinity`), None where it has no usable one."""
    original_fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of another form ("true", 3.0), as the client wrote them: the engine receives and validates this form."""

    @property
    def original_body(self) -> dict[str, Any]:
        """The request's body in the client's form, ready to serialize (see `PackedJson`)."""
        return {**self.body.as_written, **self.original_fields}

    def token_estimate(self, body_bytes: int) -> Estimate:
        """Estimate the tokens of the request. body_bytes: of its body."""
        return estimate(body_bytes, self.max_tokens, self.choices)

    def prompt(self, number: int) -> Any:
        """Return one of a completion's prompts, a text or ids."""
        return _prompts(self.body["prompt"])[number]

    @property
    def stop_holdback_chars(self) -> int:
        """Characters that vLLM holds back while a stop string may be forming."""
        if not self.stop or self.body.get("include_stop_str_in_output"):
            return 0
        return max(map(len, self.stop)) - 1

    @property
    def exposes_token_ids(self) -> bool:
        """True when the client receives every id, so that a continuation must repeat them exactly."""
        return self.wants_ids or self.wants_logprobs

    @property
    def wants_logprobs(self) -> bool:
        """True when each token comes with its logprob; a completion's 0 also means that, without other candidates."""
        requested = self.body.get("logprobs")
        return bool(requested) if self.route is ApiRoute.CHAT else requested is not None

    @property
    def hides_reasoning(self) -> bool:
        """True when this node removes the reasoning with its ids and logprobs: an engine would omit all ids."""
        return self.route is ApiRoute.CHAT and self.streaming and self.body.get("include_reasoning") is False

    def prompt_index(self, choice: int) -> int:
        """Return the prompt that a choice answers: vLLM numbers the choices of the first prompt first."""
        return choice * max(1, self.prompt_count) // self.choices

    def echo(self, choice: int) -> str:
        """Return the text that this node prepends to an answer."""
        return self.echoes[self.prompt_index(choice)] if self.prepends_prompt else ""

    @property
    def prepends_prompt(self) -> bool:
        """True when this node prepends the prompts' texts, which an engine omits when it returns ids.

        A client that requests ids itself gets the engine's form; without an answer no ids are requested.
        """
        is_echo = self.route is ApiRoute.COMPLETION and bool(self.body.get("echo"))
        return is_echo and self.streaming and not self.wants_ids and self.max_tokens != 0

    @property
    def returns_prompt_logprobs(self) -> bool:
        """True when the first chunk of each choice also has the logprobs of its prompt."""
        return self.route is ApiRoute.COMPLETION and self.wants_logprobs and bool(self.body.get("echo"))

    @property
    def single_chunk(self) -> bool:
        """True when each choice is one chunk with its end: an echo without an answer, or a beam search."""
        return self.max_tokens == 0 or bool(self.body.get("use_beam_search"))

    def engine_body(self) -> bytes:
        """Build the body of the first engine's request: with token ids in every chunk of a stream."""
        body = self.original_body
        wants_no_answer = self.max_tokens == 0
        if not self.streaming or wants_no_answer:
            return orjson.dumps(body)
        if self.wants_ids and not self.hides_reasoning:
            return orjson.dumps(body | self.per_token_args())
        if self.prepends_prompt and not self.returns_prompt_logprobs:
            del body["echo"]
        reasoning: dict[str, Any] = {"include_reasoning": True} if self.hides_reasoning else {}
        return orjson.dumps(body | reasoning | self.per_token_args() | {"return_token_ids": True})

    def per_token_args(self) -> dict[str, Any]:
        """Return the arguments that make an engine's output for equal ids the same each time, merged or not.

        For merged ids a parser of tool calls gives another output, and which of them are reasoning is unknown.
        """
        calls = bool(self.body.get("tools")) and self.body.get("tool_choice") != "none"
        if not calls and not (self.hides_reasoning and self.exposes_token_ids):
            return {}
        return {"vllm_xargs": {**(self.body.get("vllm_xargs") or {}), PER_TOKEN: 1}}


def read_generation(route: ApiRoute, raw: bytes) -> GenerationRequest:
    """Parse a request's body from its bytes. Raises as `parse_generation` does."""
    return parse_generation(route, read_body(raw))


def parse_generation(route: ApiRoute, source: Body) -> GenerationRequest:
    """Parse a request's body. More than MAX_CHOICES answers raise RequestRejected (400).

    Returns:
        The request, with the fields that are parsed here in the engine's types.

    Raises:
        PassThroughRequest: Only an engine can answer it: a field is missing or unreadable, or a journal cannot hold it.
    """
    if not isinstance(source.value, dict) or not source.is_standard:
        raise PassThroughRequest("no object, or one that a journal cannot hold")
    body, original = _coerce_fields(route, source.value)
    if not isinstance(body.get("vllm_xargs") or {}, dict) or not isinstance(body.get("include") or [], list):
        raise PassThroughRequest("vllm_xargs or include are of another type")
    model, prompt_field = body.get("model"), _PROMPT_FIELD[route]
    if not isinstance(model, str) or not model or body.get(prompt_field) is None:
        raise PassThroughRequest("no model, or no prompt")
    options = {} if route.uses_named_events else _stream_options(body.get("stream_options"))
    prompts = _prompts_of(body) if route is ApiRoute.COMPLETION else ()
    return GenerationRequest(
        route=route,
        body=PackedJson(body),
        model=model,
        streaming=bool(body.get("stream")),
        wants_ids=bool(body.get("return_token_ids")),
        wants_usage=options.get("include_usage", False),
        wants_running_usage=options.get("include_usage", False) and options.get("continuous_usage_stats", False),
        choices=1 if route.uses_named_events else _choices(body, prompts),
        prompt_count=len(prompts),
        echoes=_echoes(body, prompts),
        max_tokens=_max_tokens(route, body),
        stop=_stop_strings(body.get("stop")),
        affinity_key=_affinity_key(route, body[prompt_field]),
        original_fields=original,
    )


def is_engine_bound(generation: GenerationRequest) -> bool:
    """Return whether a response depends on the memory of one engine: in the background, or after a previous one."""
    body = generation.body
    return bool(body.get("background")) or body.get("previous_response_id") is not None


_Reader = Callable[[object], float]  # a bool and an int are floats, too

_READERS: Mapping[_Reader, tuple[str, ...]] = {
    read_bool: (
        "stream", "background", "echo", "logprobs", "use_beam_search", "include_reasoning", "return_token_ids",
        "include_stop_str_in_output",
    ),
    read_int: ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "min_tokens", "top_logprobs"),
    read_float: ("temperature", "frequency_penalty", "presence_penalty"),
}  # fmt: skip
"""The fields that are parsed here, by the way an engine parses them. A completion's logprobs are a number."""

_EXACT_TYPES: Mapping[_Reader, tuple[type, ...]] = {read_bool: (bool,), read_int: (int,), read_float: (int, float)}
_FIELDS: Mapping[ApiRoute, tuple[tuple[str, _Reader], ...]] = {
    route: tuple(
        (name, read_int if name == "logprobs" and route is ApiRoute.COMPLETION else read)
        for read, names in _READERS.items()
        for name in names
    )
    for route in ApiRoute
}


def _coerce_fields(route: ApiRoute, source: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the body with its fields in the engine's types, and the original values of those that changed.

    Raises:
        PassThroughRequest: A field has a value that an engine does not parse.
    """
    read: dict[str, Any] = {}
    for name, reader in _FIELDS[route]:
        value = source.get(name)
        if value is None or type(value) in _EXACT_TYPES[reader]:
            continue
        try:
            read[name] = reader(value)
        except ValueError as error:
            raise PassThroughRequest(f"{name} is {error}") from error
    return ({**source, **read} if read else source), {name: source[name] for name in read}


def _stream_options(options: object) -> dict[str, bool]:
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise PassThroughRequest("stream_options is not an object")
    try:
        return {key: read_bool(options[key]) for key in _USAGE_OPTIONS if options.get(key) is not None}
    except ValueError as error:
        raise PassThroughRequest(f"in stream_options there is {error}") from error


_USAGE_OPTIONS = ("include_usage", "continuous_usage_stats")


def _affinity_key(route: ApiRoute, prompt: object) -> int | None:
    if route is ApiRoute.COMPLETION or isinstance(prompt, str):
        return prompt_key(prompt)
    return conversation_key(prompt)


def _max_tokens(route: ApiRoute, body: Mapping[str, Any]) -> int | None:
    name = "max_output_tokens" if route is ApiRoute.RESPONSES else "max_tokens"
    value = body.get("max_completion_tokens") if route is ApiRoute.CHAT else None
    value = body.get(name) if value is None else value
    if value is None:
        # vLLM 0.32: a completion without max_tokens, or with null, gets 16; a chat gets the rest of the context.
        return 16 if route is ApiRoute.COMPLETION else None
    if value < 0:
        raise PassThroughRequest(f"{name} is negative")
    return int(value)


def _choices(body: Mapping[str, Any], prompts: tuple[Any, ...]) -> int:
    """Return the number of answers, of all prompts together."""
    n = 1 if body.get("n") is None else body["n"]
    if n < 1:
        raise PassThroughRequest("n is less than 1")
    if n * max(1, len(prompts)) > MAX_CHOICES:
        requested = f"{len(prompts)} prompts with n={n}" if len(prompts) > 1 else f"n={n}"
        message = f"One request may ask for {MAX_CHOICES} answers, and this one asks for {requested}; send several."
        raise RequestRejected(400, "invalid_request", message, "prompt" if n == 1 else "n")
    return int(n) * max(1, len(prompts))


def _prompts_of(body: Mapping[str, Any]) -> tuple[Any, ...]:
    if body.get("prompt_embeds") is not None:
        raise PassThroughRequest("prompt_embeds is a prompt, too")
    prompts = _prompts(body["prompt"])
    if not all(isinstance(each, type(prompts[0])) for each in prompts):
        raise PassThroughRequest("prompt is a list of several types")
    return prompts


def _prompts(prompt: Any) -> tuple[Any, ...]:
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[0], (str, list)):
        return (prompt,)
    return tuple(prompt)


def _echoes(body: Mapping[str, Any], prompts: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the prompts that can be echoed as they are: texts that are not truncated."""
    if not body.get("echo"):
        return ()
    is_known = body.get("truncate_prompt_tokens") is None and all(isinstance(prompt, str) for prompt in prompts)
    return prompts if is_known else ()


def _stop_strings(stop: object) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise PassThroughRequest("stop is neither a text nor a list of texts")
    return tuple(text for text in stop if text)
