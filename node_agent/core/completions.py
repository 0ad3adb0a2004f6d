"""What there is to know of OpenAI's completions, as vLLM 0.32 speaks them: requests in, chunks out.

A request is read once, into a frozen `Generation`; what the engine gets and what the client gets are derived from it.
What the client did not ask for (token ids, usage) is added for the engine and taken out again for the client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from node_agent.contract.errors import RequestRejected

COMPLETE_REASONS = frozenset({"stop", "length", "tool_calls", "repetition"})
"""Only these end an answer; `repetition` is vLLM's own, and only where a request turned its detection on."""

_PREFIX_BYTES = 1024
"""How much of a prompt decides its prefix: the system prompt and the first turn of most conversations."""


class Kind(Enum):
    """The two routes that generate a continuable stream."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"

    @property
    def chunk_object(self) -> str:
        return "chat.completion.chunk" if self is Kind.CHAT else "text_completion"

    @property
    def id_prefix(self) -> str:
        return "chatcmpl" if self is Kind.CHAT else "cmpl"


@dataclass(frozen=True)
class Generation:
    """A client's request to generate, read once.

    choices: how many answers it asks for; max_tokens: None where the request leaves it to the engine; stop: the
    strings that end the answer; prefix: a digest of the prompt's beginning, equal for equal beginnings.
    """

    kind: Kind
    body: Mapping[str, Any]
    model: str
    streaming: bool
    wants_ids: bool
    wants_usage: bool
    wants_running_usage: bool
    choices: int
    max_tokens: int | None
    stop: tuple[str, ...]
    prefix: bytes

    @property
    def held_back(self) -> int:
        """How many characters vLLM keeps back while a stop string may still be forming."""
        if not self.stop or self.body.get("include_stop_str_in_output"):
            return 0
        return max(map(len, self.stop)) - 1

    @property
    def greedy(self) -> bool:
        return self.body.get("temperature") == 0

    def engine_body(self) -> bytes:
        """The request as the engine gets it at first: with token ids in every chunk of a stream."""
        if not self.streaming or self.wants_ids:
            return orjson.dumps(self.body)
        return orjson.dumps({**self.body, "return_token_ids": True})


def read_generation(kind: Kind, raw: bytes) -> Generation:
    """Raises RequestRejected (400) for what no engine could serve; finer checks are the engine's own."""
    body = _read_object(raw)
    model = _required_text(body, "model")
    prompt_field = "messages" if kind is Kind.CHAT else "prompt"
    if prompt_field not in body:
        raise _bad(f"You must provide {prompt_field!r}.", prompt_field)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _bad("'stream_options' must be an object.", "stream_options")
    return Generation(
        kind=kind,
        body=body,
        model=model,
        streaming=bool(body.get("stream")),
        wants_ids=bool(body.get("return_token_ids")),
        wants_usage=bool(options.get("include_usage")),
        wants_running_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        choices=_choices(body),
        max_tokens=_max_tokens(kind, body),
        stop=_stop_strings(body.get("stop")),
        prefix=_prefix(body[prompt_field]),
    )


def _read_object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _bad(f"The body is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise _bad("The body must be a JSON object.")
    return body


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
    value = body.get("max_completion_tokens", body.get("max_tokens")) if kind is Kind.CHAT else body.get("max_tokens")
    if value is None:
        # vLLM: a completion that does not name max_tokens gets 16; an explicit null means the rest of the context.
        return 16 if kind is Kind.COMPLETION and "max_tokens" not in body else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _bad("'max_tokens' must be a whole number, 0 or more.", "max_tokens")
    return value


def _choices(body: Mapping[str, Any]) -> int:
    n = body.get("n")
    each = n if isinstance(n, int) and n > 0 else 1
    prompt = body.get("prompt")
    is_batch = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return each * (len(prompt) if is_batch and isinstance(prompt, list) else 1)


def _stop_strings(stop: object) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise _bad("'stop' must be a text or a list of texts.", "stop")
    return tuple(text for text in stop if text)


def _prefix(prompt: object) -> bytes:
    return hashlib.blake2b(orjson.dumps(prompt)[:_PREFIX_BYTES], digest_size=8).digest()


def _bad(message: str, param: str | None = None) -> RequestRejected:
    return RequestRejected(400, "invalid_request", message, param)


def text_of(kind: Kind, choice: Mapping[str, Any]) -> str:
    """What a chunk's choice adds to the answer."""
    if kind is Kind.COMPLETION:
        return choice.get("text") or ""
    delta = choice.get("delta")
    return (delta.get("content") or "") if delta else ""


def has_more_than_text(choice: Mapping[str, Any]) -> bool:
    """Whether a chat chunk carries reasoning or tool calls, whose state a plain rewind would lose."""
    delta = choice.get("delta")
    return delta is not None and any(delta.get(key) for key in ("reasoning", "reasoning_content", "tool_calls"))


def strip_ids(chunk: dict[str, Any]) -> None:
    """Take out, in place, what the client did not ask for."""
    chunk.pop("prompt_token_ids", None)
    chunk.pop("prompt_text", None)
    for choice in chunk["choices"]:
        choice.pop("token_ids", None)
        choice.pop("prompt_token_ids", None)
        choice.pop("prompt_text", None)


def make_choice(kind: Kind, text: str, engine_choice: Mapping[str, Any], ids: list[int] | None) -> dict[str, Any]:
    """A choice in the client's own form, from a plain completion's choice. ids: None where the client wants none."""
    reason = engine_choice.get("finish_reason")
    choice: dict[str, Any] = {"index": 0}
    if kind is Kind.CHAT:
        choice |= {"delta": {"content": text}, "logprobs": None, "finish_reason": reason}
        if reason is not None:
            choice["stop_reason"] = engine_choice.get("stop_reason")
    else:
        choice |= {"text": text, "logprobs": None, "finish_reason": reason}
        choice["stop_reason"] = engine_choice.get("stop_reason")
        if ids is not None:
            choice["prompt_token_ids"] = None
    if ids is not None:
        choice["token_ids"] = ids
    return choice


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }
