"""What there is to know of requests to generate, as vLLM 0.32 takes them; what it answers is in `core/openai/chunks`.

A request is read once, into a frozen `GenerationRequest`; what the engine gets and what the client gets are derived
from it. What the client did not ask for (token ids, usage) is added for the engine and taken out again for the client.

Fields are read as the engine reads them (`core/common/lax_values`). A request that cannot be read so is refused by the
engine, in its own words, or is one that only an engine understands: it is passed on, and not continued
(`PassThroughRequest`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson

from node_agent.contract.errors import RequestRejected
from node_agent.core.common.lax_values import read_bool, read_float, read_int
from node_agent.core.common.packed_json import PackedJson
from node_agent.core.openai.request_body import INTERNAL_ARG_PREFIX, Body, read_body
from node_agent.core.routing.affinity import conversation_key, prompt_key

MAX_CHOICES = 1_024
"""Of one request, of all its prompts together, and so the journals of one stream. vLLM takes as many prompts; its own
bound of choices, 16,384, would have every other request wait for seconds."""

PER_TOKEN = INTERNAL_ARG_PREFIX + "apart"
"""Asks an engine with the plug-in to hand every id to its parsers by itself, however busy it is."""


class ApiRoute(Enum):
    """The routes whose streams can go on: two of chunks (`core/streams/chunk_stream`), two of events
    (`core/streams/event_stream`)."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"

    @property
    def uses_named_events(self) -> bool:
        """Whether its streams have events with names, and no chunks with token ids."""
        return self in (ApiRoute.RESPONSES, ApiRoute.MESSAGES)


class PassThroughRequest(ValueError):
    """A request that only an engine can answer, be it with an error: passed on as it is, it is not continued."""


_PROMPT_FIELD = {
    ApiRoute.CHAT: "messages",
    ApiRoute.COMPLETION: "prompt",
    ApiRoute.RESPONSES: "input",
    ApiRoute.MESSAGES: "messages",
}


@dataclass(frozen=True)
class GenerationRequest:
    """A client's request to generate, read once.

    body: with the fields that are read here as the engine understands them; raw: those of them that the client wrote in
    another way ("true", 3.0), as it wrote them: the engine is asked in the client's words, and checks some of them.

    choices: how many answers it asks for, of all its prompts together; prompt_count: of a completion, 0 of any other;
    echoes: the texts of a completion's prompts, () where they are not known or not wanted; max_tokens: None where the
    request leaves it to the engine; stop: the strings that end the answer; key: of what it begins with
    (`core/routing/affinity`), None where it has no beginning to speak of.
    """

    route: ApiRoute
    body: PackedJson
    model: str
    streaming: bool
    wants_ids: bool
    wants_usage: bool
    wants_running_usage: bool
    choices: int
    prompt_count: int
    echoes: tuple[str, ...]
    max_tokens: int | None
    stop: tuple[str, ...]
    affinity_key: int | None
    original_fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def original_body(self) -> dict[str, Any]:
        """The request's body in the client's own words, to be written (see `PackedJson`)."""
        return {**self.body.as_written, **self.original_fields}

    def prompt(self, number: int) -> Any:
        """One of a completion's prompts, a text or ids."""
        return _prompts(self.body["prompt"])[number]

    @property
    def stop_holdback_chars(self) -> int:
        """How many characters vLLM keeps back while a stop string may still be forming."""
        if not self.stop or self.body.get("include_stop_str_in_output"):
            return 0
        return max(map(len, self.stop)) - 1

    @property
    def greedy(self) -> bool:
        return bool(self.body.get("temperature") == 0)

    @property
    def exposes_token_ids(self) -> bool:
        """Whether the client learns of every single id: a continuation must then repeat them exactly."""
        return self.wants_ids or self.wants_logprobs

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token comes with its logprob; with a completion's 0, too, which asks for no other candidates."""
        asked = self.body.get("logprobs")
        return bool(asked) if self.route is ApiRoute.CHAT else asked is not None

    @property
    def hides_reasoning(self) -> bool:
        """Whether the reasoning is taken out here, and its ids and logprobs with it: an engine hides those of all."""
        return self.route is ApiRoute.CHAT and self.streaming and self.body.get("include_reasoning") is False

    def prompt_index(self, choice: int) -> int:
        """Which of the prompts a choice answers: vLLM numbers the choices of the first prompt first."""
        return choice * max(1, self.prompt_count) // self.choices

    def echo(self, choice: int) -> str:
        """What the front door puts before an answer."""
        return self.echoes[self.prompt_index(choice)] if self.prepends_prompt else ""

    @property
    def prepends_prompt(self) -> bool:
        """Whether the front door puts the prompts' texts before the answers: asked for ids, an engine leaves them out.

        A client that asks for ids itself gets it as the engine says it; and where no answer is wanted, no ids are.
        """
        is_echo = self.route is ApiRoute.COMPLETION and bool(self.body.get("echo"))
        return is_echo and self.streaming and not self.wants_ids and self.max_tokens != 0

    @property
    def returns_prompt_logprobs(self) -> bool:
        """Whether the first chunk of each choice has the logprobs of its prompt, too."""
        return self.route is ApiRoute.COMPLETION and self.wants_logprobs and bool(self.body.get("echo"))

    @property
    def single_chunk(self) -> bool:
        """Whether each choice comes in one chunk with its end: a prompt and no answer, or a beam search's."""
        return self.max_tokens == 0 or bool(self.body.get("use_beam_search"))

    def engine_body(self) -> bytes:
        """The request as the engine gets it at first: with token ids in every chunk of a stream."""
        body = self.original_body
        wants_no_answer = self.max_tokens == 0
        if not self.streaming or wants_no_answer:
            return orjson.dumps(body)
        if self.wants_ids and not self.hides_reasoning:
            return orjson.dumps(body | self.per_token_args())
        if self.prepends_prompt and not self.returns_prompt_logprobs:
            del body["echo"]
        told: dict[str, Any] = {"include_reasoning": True} if self.hides_reasoning else {}
        return orjson.dumps(body | told | self.per_token_args() | {"return_token_ids": True})

    def per_token_args(self) -> dict[str, Any]:
        """What makes an engine say the same of equal ids each time, joined or not.

        Of joined ids a parser of tool calls says something else, and nobody can tell which of them reasoned.
        """
        calls = bool(self.body.get("tools")) and self.body.get("tool_choice") != "none"
        if not calls and not (self.hides_reasoning and self.exposes_token_ids):
            return {}
        return {"vllm_xargs": {**(self.body.get("vllm_xargs") or {}), PER_TOKEN: 1}}


def read_generation(kind: ApiRoute, raw: bytes) -> GenerationRequest:
    """Raises RequestRejected (400) and PassThroughRequest, as `parse_generation`."""
    return parse_generation(kind, read_body(raw))


def parse_generation(kind: ApiRoute, asked: Body) -> GenerationRequest:
    """The request that a body is.

    Raises RequestRejected (400) for more than this door takes, and PassThroughRequest.
    """
    if not isinstance(asked.value, dict) or not asked.is_standard:
        raise PassThroughRequest("no object, or one that a journal cannot hold")
    body, raw = _coerce_fields(kind, asked.value)
    if not isinstance(body.get("vllm_xargs") or {}, dict) or not isinstance(body.get("include") or [], list):
        raise PassThroughRequest("vllm_xargs or include are of another type")
    model, prompt_field = body.get("model"), _PROMPT_FIELD[kind]
    if not isinstance(model, str) or not model or body.get(prompt_field) is None:
        raise PassThroughRequest("no model, or no prompt")
    options = {} if kind.uses_named_events else _stream_options(body.get("stream_options"))
    prompts = _prompts_of(body) if kind is ApiRoute.COMPLETION else ()
    return GenerationRequest(
        route=kind,
        body=PackedJson(body),
        model=model,
        streaming=bool(body.get("stream")),
        wants_ids=bool(body.get("return_token_ids")),
        wants_usage=options.get("include_usage", False),
        wants_running_usage=options.get("include_usage", False) and options.get("continuous_usage_stats", False),
        choices=1 if kind.uses_named_events else _choices(body, prompts),
        prompt_count=len(prompts),
        echoes=_echoes(body, prompts),
        max_tokens=_max_tokens(kind, body),
        stop=_stop_strings(body.get("stop")),
        affinity_key=_affinity_key(kind, body[prompt_field]),
        original_fields=raw,
    )


def is_engine_bound(generation: GenerationRequest) -> bool:
    """Whether it is a response that lives in the memory of the engine that has it: in the background, or one that goes
    on from another."""
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
"""What is read here of a request, and how an engine reads it. A completion's logprobs are a number."""

_EXACT_TYPES: Mapping[_Reader, tuple[type, ...]] = {read_bool: (bool,), read_int: (int,), read_float: (int, float)}
_FIELDS: Mapping[ApiRoute, tuple[tuple[str, _Reader], ...]] = {
    kind: tuple(
        (name, read_int if name == "logprobs" and kind is ApiRoute.COMPLETION else read)
        for read, names in _READERS.items()
        for name in names
    )
    for kind in ApiRoute
}


def _coerce_fields(kind: ApiRoute, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body with its fields as an engine reads them, and those that were written in another way, as they were.

    Raises PassThroughRequest.
    """
    read: dict[str, Any] = {}
    for name, reader in _FIELDS[kind]:
        value = asked.get(name)
        if value is None or type(value) in _EXACT_TYPES[reader]:
            continue
        try:
            read[name] = reader(value)
        except ValueError as error:
            raise PassThroughRequest(f"{name} is {error}") from error
    return ({**asked, **read} if read else asked), {name: asked[name] for name in read}


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


def _affinity_key(kind: ApiRoute, prompt: object) -> int | None:
    if kind is ApiRoute.COMPLETION or isinstance(prompt, str):
        return prompt_key(prompt)
    return conversation_key(prompt)


def _max_tokens(kind: ApiRoute, body: Mapping[str, Any]) -> int | None:
    name = "max_output_tokens" if kind is ApiRoute.RESPONSES else "max_tokens"
    value = body.get("max_completion_tokens") if kind is ApiRoute.CHAT else None
    value = body.get(name) if value is None else value
    if value is None:
        # vLLM 0.32: a completion without max_tokens, or with null, gets 16; a chat gets the rest of the context.
        return 16 if kind is ApiRoute.COMPLETION else None
    if value < 0:
        raise PassThroughRequest(f"{name} is negative")
    return int(value)


def _choices(body: Mapping[str, Any], prompts: tuple[Any, ...]) -> int:
    """How many answers are asked for, of all prompts together."""
    n = 1 if body.get("n") is None else body["n"]
    if n < 1:
        raise PassThroughRequest("n is less than 1")
    if n * max(1, len(prompts)) > MAX_CHOICES:
        asked = f"{len(prompts)} prompts with n={n}" if len(prompts) > 1 else f"n={n}"
        message = f"One request may ask for {MAX_CHOICES} answers, and this one asks for {asked}; send several."
        raise RequestRejected(400, "invalid_request", message, "prompt" if n == 1 else "n")
    return int(n) * max(1, len(prompts))


def _prompts_of(body: Mapping[str, Any]) -> tuple[Any, ...]:
    if body.get("prompt_embeds") is not None:
        raise PassThroughRequest("prompt_embeds is a prompt, too")
    prompts = _prompts(body["prompt"])
    if not all(isinstance(each, type(prompts[0])) for each in prompts):
        raise PassThroughRequest("prompt is a list of several kinds")
    return prompts


def _prompts(prompt: Any) -> tuple[Any, ...]:
    if not isinstance(prompt, list) or not prompt or not isinstance(prompt[0], (str, list)):
        return (prompt,)
    return tuple(prompt)


def _echoes(body: Mapping[str, Any], prompts: tuple[Any, ...]) -> tuple[str, ...]:
    """The prompts that can be echoed as they are: texts, of which nothing is cut off."""
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
