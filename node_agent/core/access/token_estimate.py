"""Estimate the tokens of a request before an engine has counted them, and read an engine's count afterwards."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

BYTES_PER_TOKEN = 4
"""Of a request's body, about what English needs; other languages and JSON need fewer."""

DEFAULT_ANSWER = 512
"""Tokens of an answer whose request names no max_tokens."""

MAX_RESERVED_PART = 10
"""What is reserved for one answer is at most this part of the limit, so that a client with a large max_tokens is not
refused for tokens that it mostly does not use."""

_MAX_ANSWER = 1_048_576


class Estimate(NamedTuple):
    """The estimated tokens of a request's prompt and answer."""

    prompt: int
    answer: int

    @property
    def total(self) -> int:
        """Of both."""
        return self.prompt + self.answer

    def counted(self, limit: int | None) -> tuple[int, int]:
        """Return the tokens of the prompt that a key's limit counts, and those that it reserves for the answer.

        limit: the key's tokens a minute, None where they are not limited.
        """
        prompt = max(1, self.prompt)
        if limit is None:
            return prompt, 0
        answer = min(self.answer, limit // MAX_RESERVED_PART)
        return prompt, min(answer, limit - prompt) if prompt < limit else 0


def estimate(body_bytes: int, max_tokens: int | None = 0, choices: int = 1) -> Estimate:
    """Estimate a request's tokens. max_tokens: of each answer, None where the request names none; 0 without answers."""
    answer = DEFAULT_ANSWER if max_tokens is None else max_tokens
    return Estimate(-(-body_bytes // BYTES_PER_TOKEN), min(answer * choices, _MAX_ANSWER))


class Count(NamedTuple):
    """An engine's count of a request's tokens."""

    prompt: int
    answer: int


def read_usage(body: bytes) -> Count | None:
    """Read the usage in an engine's answer, of OpenAI's or Anthropic's form; None where it has none."""
    at = body.rfind(_USAGE)  # in a string its quotes would be escaped
    if at < 0:
        return None
    try:
        usage, _ = _DECODER.raw_decode(
            body[at + len(_USAGE) : at + _MAX_USAGE_BYTES].decode("utf-8", "replace").lstrip()
        )
    except (ValueError, RecursionError):
        return None
    return _usage_count(usage)


def read_event_usage(event: dict[str, Any]) -> Count | None:
    """Read the usage in an event of `/v1/responses` or `/v1/messages`; None where it has none, or not the prompt's."""
    places = (event, event.get("response"), event.get("message"))
    return next(
        (count for place in places if isinstance(place, dict) and (count := _usage_count(place.get("usage")))), None
    )


def estimate_left(estimated: Estimate, elapsed_s: float, time_per_token_s: float, choices: int = 1) -> Count:
    """Estimate the tokens of a request in one piece whose client left, of which no engine's count arrives.

    Args:
        estimated: its tokens at admission; an answer has no more tokens.
        elapsed_s: seconds since its engine received it, a wait there included.
        time_per_token_s: of one answer at that engine, 0 where unknown: then as if it were complete.
        choices: answers that are generated at the same time.

    Returns:
        The prompt's estimate, and the tokens that the engine had time for.
    """
    if time_per_token_s <= 0:
        return Count(*estimated)
    return Count(estimated.prompt, min(estimated.answer, round(elapsed_s / time_per_token_s) * choices))


def _usage_count(usage: object) -> Count | None:
    if not isinstance(usage, dict):
        return None
    prompt, answer = (_count(usage, names) for names in (_PROMPT_NAMES, _ANSWER_NAMES))
    cached = sum(_count(usage, (name,)) or 0 for name in _CACHED_NAMES)
    return Count(prompt + cached, answer or 0) if prompt is not None else None


_USAGE = b'"usage":'
_MAX_USAGE_BYTES = 4_096
_DECODER = json.JSONDecoder()
_PROMPT_NAMES = ("prompt_tokens", "input_tokens")
_ANSWER_NAMES = ("completion_tokens", "output_tokens")
_CACHED_NAMES = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Anthropic's: tokens of a prompt that its `input_tokens` leave out; OpenAI's counts have them all."""


def _count(usage: dict[str, object], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**32:
            return value
    return None
