"""What there is to know of requests to generate, as vLLM 0.32 takes them; what it answers is in `core/chunks`.

A request is read once, into a frozen `Generation`; what the engine gets and what the client gets are derived from it.
What the client did not ask for (token ids, usage) is added for the engine and taken out again for the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from node_agent.contract.errors import RequestRejected
from node_agent.core.affinity import conversation_key, prompt_key

MAX_DEPTH = 200
"""Of a request's JSON: it has to be written again, inside of a journal's opening, and orjson writes 254 levels."""

MAX_CHOICES = 128
"""Of one request, and so the journals of one stream."""

OWN_ARGUMENTS = "synkti_"
"""What the names of our own arguments for engines (`vllm_xargs`) begin with: no client may send one."""


APART = OWN_ARGUMENTS + "apart"
"""Asks an engine with the plug-in to hand every id to its parsers by itself, however busy it is."""


class Kind(Enum):
    """The routes whose streams can go on: two of chunks (`core/stream`), two of events (`core/retelling`)."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"

    @property
    def speaks_in_events(self) -> bool:
        """Whether its streams have events with names, and no chunks with token ids."""
        return self in (Kind.RESPONSES, Kind.MESSAGES)


_PROMPT_FIELD = {
    Kind.CHAT: "messages",
    Kind.COMPLETION: "prompt",
    Kind.RESPONSES: "input",
    Kind.MESSAGES: "messages",
}


@dataclass(frozen=True)
class Generation:
    """A client's request to generate, read once.

    choices: how many answers it asks for, of all its prompts together; prompts: of a completion, one or more, each a
    text or ids; echoes: the texts of a completion's prompts, () where they are not known; max_tokens: None where the
    request leaves it to the engine; stop: the strings that end the answer; key: of what it begins with
    (`core/affinity`), None where it has no beginning to speak of.
    """

    kind: Kind
    body: Mapping[str, Any]
    model: str
    streaming: bool
    wants_ids: bool
    wants_usage: bool
    wants_running_usage: bool
    choices: int
    prompts: tuple[Any, ...]
    echoes: tuple[str, ...]
    max_tokens: int | None
    stop: tuple[str, ...]
    key: int | None

    @property
    def held_back(self) -> int:
        """How many characters vLLM keeps back while a stop string may still be forming."""
        if not self.stop or self.body.get("include_stop_str_in_output"):
            return 0
        return max(map(len, self.stop)) - 1

    @property
    def greedy(self) -> bool:
        return self.body.get("temperature") == 0

    @property
    def told_ids(self) -> bool:
        """Whether the client learns of every single id: a continuation must then repeat them exactly."""
        return self.wants_ids or self.wants_logprobs

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token comes with its logprob; with a completion's 0, too, which asks for no other candidates."""
        asked = self.body.get("logprobs")
        return bool(asked) if self.kind is Kind.CHAT else asked is not None

    @property
    def hides_reasoning(self) -> bool:
        """Whether the reasoning is taken out here, and its ids and logprobs with it: an engine hides those of all."""
        return self.kind is Kind.CHAT and self.streaming and self.body.get("include_reasoning") is False

    def prompt_number(self, choice: int) -> int:
        """Which of the prompts a choice answers: vLLM numbers the choices of the first prompt first."""
        return choice * max(1, len(self.prompts)) // self.choices

    def echo(self, choice: int) -> str:
        """What the front door puts before an answer."""
        return self.echoes[self.prompt_number(choice)] if self.echoes_here else ""

    @property
    def echoes_here(self) -> bool:
        """Whether the front door puts the prompts' texts before the answers: asked for ids, an engine leaves them out.

        A client that asks for ids itself gets it as the engine says it; and where no answer is wanted, no ids are.
        """
        is_echo = self.kind is Kind.COMPLETION and bool(self.body.get("echo"))
        return is_echo and self.streaming and not self.wants_ids and self.max_tokens != 0

    @property
    def scores_prompt(self) -> bool:
        """Whether the first chunk of each choice has the logprobs of its prompt, too."""
        return self.kind is Kind.COMPLETION and self.wants_logprobs and bool(self.body.get("echo"))

    @property
    def in_one_piece(self) -> bool:
        """Whether each choice comes in one chunk with its end: a prompt and no answer, or a beam search's."""
        return self.max_tokens == 0 or bool(self.body.get("use_beam_search"))

    def engine_body(self) -> bytes:
        """The request as the engine gets it at first: with token ids in every chunk of a stream."""
        wants_no_answer = self.max_tokens == 0
        if not self.streaming or wants_no_answer:
            return orjson.dumps(self.body)
        if self.wants_ids and not self.hides_reasoning:
            return orjson.dumps({**self.body, **self.apart()})
        body = dict(self.body)
        if self.echoes_here and not self.scores_prompt:
            del body["echo"]
        told: dict[str, Any] = {"include_reasoning": True} if self.hides_reasoning else {}
        return orjson.dumps({**body, **told, **self.apart(), "return_token_ids": True})

    def apart(self) -> dict[str, Any]:
        """What makes an engine say the same of equal ids each time, joined or not.

        Of joined ids a parser of tool calls says something else, and nobody can tell which of them reasoned.
        """
        calls = bool(self.body.get("tools")) and self.body.get("tool_choice") != "none"
        if not calls and not (self.hides_reasoning and self.told_ids):
            return {}
        return {"vllm_xargs": {**(self.body.get("vllm_xargs") or {}), APART: 1}}


def read_generation(kind: Kind, raw: bytes) -> Generation:
    """Raises RequestRejected (400) for what no engine could serve; finer checks are the engine's own."""
    body = without_own_arguments(_read_object(raw))
    model = _required_text(body, "model")
    prompt_field = _PROMPT_FIELD[kind]
    if prompt_field not in body:
        raise _bad(f"You must provide {prompt_field!r}.", prompt_field)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _bad("'stream_options' must be an object.", "stream_options")
    prompts = _prompts(body) if kind is Kind.COMPLETION else ()
    return Generation(
        kind=kind,
        body=body,
        model=model,
        streaming=bool(body.get("stream")),
        wants_ids=bool(body.get("return_token_ids")),
        wants_usage=bool(options.get("include_usage")),
        wants_running_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        choices=1 if kind.speaks_in_events else _choices(body) * max(1, len(prompts)),
        prompts=prompts,
        echoes=_echoes(body, prompts),
        max_tokens=_max_tokens(kind, body),
        stop=_stop_strings(body.get("stop")),
        key=_key(kind, body[prompt_field]),
    )


def read_event_stream(kind: Kind, raw: bytes) -> Generation | None:
    """A request for a stream of events that can be continued; None for any other, which an engine has to answer.

    A background response, and one that goes on from another, live in the memory of the engine that has them.
    """
    try:
        generation = read_generation(kind, raw)
    except RequestRejected:
        return None
    body = generation.body
    is_of_one_engine = body.get("background") or body.get("previous_response_id") is not None
    return generation if generation.streaming and not is_of_one_engine else None


def _key(kind: Kind, prompt: object) -> int | None:
    if kind is Kind.COMPLETION or isinstance(prompt, str):
        return prompt_key(prompt)
    return conversation_key(prompt)


def _read_object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _bad(f"The body is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise _bad("The body must be a JSON object.")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise _bad(f"The body is nested deeper than {MAX_DEPTH} levels.")
    return body


def _depth(value: object) -> int:
    """How deep a JSON value is nested, without recursion; no further than what is too deep anyhow."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        below: list[object] = []
        for each in level:
            if isinstance(each, (dict, list)):
                below += each.values() if isinstance(each, dict) else each
        depth += any(isinstance(each, (dict, list)) for each in level)
        level = below
    return depth


def without_own_arguments(body: dict[str, Any]) -> dict[str, Any]:
    """A client's request without arguments that only an entry may send: an engine would believe them."""
    extra = body.get("vllm_xargs")
    if not isinstance(extra, dict) or not any(name.startswith(OWN_ARGUMENTS) for name in extra):
        return body
    return {**body, "vllm_xargs": {name: extra[name] for name in extra if not name.startswith(OWN_ARGUMENTS)}}


def stripped(raw: bytes) -> bytes:
    """The body of any route without such arguments, however deep; as it is where nothing had to go.

    Raises RequestRejected (400) where it is too deep to be written anew.
    """
    if b"vllm_xargs" not in raw and b"\\u" not in raw:
        return raw
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw
    found, under_way = False, [body]
    while under_way:  # not by recursion: a client may nest as deep as it likes
        value = under_way.pop()
        if isinstance(value, dict):
            kept = without_own_arguments(value)
            if kept is not value:
                found, value["vllm_xargs"] = True, kept["vllm_xargs"]
            under_way += value.values()
        elif isinstance(value, list):
            under_way += value
    try:
        return orjson.dumps(body) if found else raw
    except orjson.JSONEncodeError as error:
        raise _bad("The body is nested too deep.") from error


def read_model(raw: bytes) -> str | None:
    """The model named in a body of any other route, None where there is none to be read."""
    try:
        body = orjson.loads(raw) if raw else None
    except orjson.JSONDecodeError:
        return None
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else None


def _required_text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise _bad(f"You must provide {field!r} as a text.", field)
    return value


def _max_tokens(kind: Kind, body: Mapping[str, Any]) -> int | None:
    name = "max_output_tokens" if kind is Kind.RESPONSES else "max_tokens"
    value = body.get("max_completion_tokens") if kind is Kind.CHAT else None
    value = body.get(name) if value is None else value
    if value is None:
        # vLLM 0.32: a completion without max_tokens, or with null, gets 16; a chat gets the rest of the context.
        return 16 if kind is Kind.COMPLETION else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _bad(f"'{name}' must be a whole number, 0 or more.", name)
    return value


def _choices(body: Mapping[str, Any]) -> int:
    n = body.get("n")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_CHOICES):
        raise _bad(f"'n' must be a whole number from 1 to {MAX_CHOICES}.", "n")
    return n or 1


def _prompts(body: Mapping[str, Any]) -> tuple[Any, ...]:
    prompt = body["prompt"]
    is_batch = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    prompts = tuple(prompt) if is_batch else (prompt,)
    if len(prompts) > MAX_CHOICES:
        raise _bad(f"A request may have {MAX_CHOICES} prompts; send the others in requests of their own.", "prompt")
    return prompts


def _echoes(body: Mapping[str, Any], prompts: tuple[Any, ...]) -> tuple[str, ...]:
    """The prompts that can be echoed as they are: texts, of which nothing is cut off."""
    is_known = body.get("truncate_prompt_tokens") is None and all(isinstance(prompt, str) for prompt in prompts)
    return prompts if is_known else ()


def _stop_strings(stop: object) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise _bad("'stop' must be a text or a list of texts.", "stop")
    return tuple(text for text in stop if text)


def _bad(message: str, param: str | None = None) -> RequestRejected:
    return RequestRejected(400, "invalid_request", message, param)
