"""Bound the counts and sizes in a request that cost an engine more than its bytes say.

Each bound is a setting, SYNKTI_<FIELD>. Numbers are read as an engine reads them ("5" and 5.0 are 5); what it cannot
read it refuses itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from node_agent.contract.errors import RequestRejected
from node_agent.core.common.lax_values import read_int


@dataclass(frozen=True)
class RequestBounds:
    """The bounds of one request."""

    max_choices: int = 1_024
    """Answers of one request: its prompts, or conversations, times n. Never more than 1,024."""

    max_inputs: int = 2_048
    """Texts of one request for embeddings, scores or classes, of each list."""

    max_messages: int = 4_096
    """Messages of one conversation."""

    max_tools: int = 128
    """Tools of one request."""

    max_stop_strings: int = 16
    """Stop strings. vLLM itself accepts four."""

    max_stop_chars: int = 1_024
    """Characters of one stop string: an engine holds back as much of the answer."""

    max_stop_token_ids: int = 128
    """Ids in `stop_token_ids`."""

    max_logit_bias: int = 1_024
    """Entries of `logit_bias`."""

    max_logprobs: int = 20
    """`logprobs`, `top_logprobs` and `prompt_logprobs`, for each token; -1 would be the whole vocabulary."""

    max_token_ids: int = 1_024
    """Ids in `allowed_token_ids`, `logprob_token_ids` and `label_token_ids`."""

    max_bad_words: int = 128
    """Texts in `bad_words`, and the characters of each."""

    max_grammar_bytes: int = 65_536
    """Of one JSON schema, grammar, list of choices or structural tag, also of a tool's parameters."""

    max_schema_depth: int = 64
    """Levels of lists and objects in one of these."""

    max_regex_chars: int = 4_096
    """Of one regular expression, also of a `pattern` in a schema."""

    max_repetitions: int = 65_536
    """Counts of repetition in a regular expression, multiplied where they are nested; and lengths in a schema."""

    max_chars_per_token: int = 8
    """Characters of one prompt for each token of the context, bytes on routes that only tokenize; 64 Ki always pass."""


def too_much(what: str, sent: float | str, setting: str, limit: int, param: str) -> RequestRejected:
    """Return the error for more of something than a bound. what: such as "stop strings"."""
    message = f"A request may have {limit} {what}, and this one has {sent} (SYNKTI_{setting.upper()} on the nodes)."
    return RequestRejected(400, "limit_exceeded", message, param)


SETTINGS = tuple(field.name for field in fields(RequestBounds))
MIN_PROMPT_CHARS = 64 * 1024
UNKNOWN_CONTEXT_CHARS = 1024 * 1024
"""The bound of a prompt while no engine has reported its context length."""

_COUNTED_LISTS: Mapping[str, tuple[str, str]] = {
    "messages": ("messages", "max_messages"),
    "input": ("items", "max_messages"),
    "tools": ("tools", "max_tools"),
    "stop_token_ids": ("stop token ids", "max_stop_token_ids"),
    "allowed_token_ids": ("allowed token ids", "max_token_ids"),
    "logprob_token_ids": ("token ids with logprobs", "max_token_ids"),
    "label_token_ids": ("label token ids", "max_token_ids"),
    "bad_words": ("bad words", "max_bad_words"),
    "logit_bias": ("entries in logit_bias", "max_logit_bias"),
}
_LOGPROBS = frozenset({"top_logprobs", "logprobs", "prompt_logprobs"})
_STOPS = frozenset({"stop", "stop_sequences"})
_INPUT_LISTS = (
    "input", "texts", "images", "inputs", "data_1", "data_2", "queries", "documents", "items", "text_1", "text_2",
    "audio", "videos", "questions",
)  # fmt: skip
_BATCH = "/v1/chat/completions/batch"
_GENERATES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})


def check_counts(path: str, body: Mapping[str, Any], bounds: RequestBounds) -> None:
    """Check every count of a request. Raises RequestRejected (400), which names limit, value and setting."""
    generates = path in _GENERATES
    for name, value in body.items():
        counted = _COUNTED_LISTS.get(name)
        if counted is not None:
            if isinstance(value, (list, dict)) and (generates or name not in ("input", "messages")):
                _check(len(value), *counted, bounds, name)
        elif name in _LOGPROBS:
            _check_logprobs(name, value, bounds)
        elif name in _STOPS:
            _check_stops(name, value, bounds)
    if "n" in body or "prompt" in body or path == _BATCH:
        _check_choices(path, body, bounds)
    if "bad_words" in body:
        _check_bad_words(body["bad_words"], bounds)
    if not generates:
        _check_inputs(body, bounds)


def _check_bad_words(words: Any, bounds: RequestBounds) -> None:
    for word in words if isinstance(words, list) else ():
        if isinstance(word, str):
            _check(len(word), "characters in a bad word", "max_bad_words", bounds, "bad_words")


def _check(count: int, what: str, setting: str, bounds: RequestBounds, param: str) -> None:
    limit: int = getattr(bounds, setting)
    if count > limit:
        raise too_much(what, count, setting, limit, param)


def _check_choices(path: str, body: Mapping[str, Any], bounds: RequestBounds) -> None:
    """Check prompts times answers for each; of a batch the conversations are the prompts."""
    n, field_name = max((_number(body.get(name)) or 1, name) for name in ("n", "best_of"))
    of, name = ("conversations", "messages") if path == _BATCH else ("prompts", "prompt")
    prompts = body.get(name) if path in (_BATCH, "/v1/completions") else None
    is_several = isinstance(prompts, list) and bool(prompts) and isinstance(prompts[0], (str, list))
    count = len(prompts) if is_several and prompts else 1
    if n * count > bounds.max_choices:
        sent = f"{count} {of} with n={n}" if count > 1 else f"n={n}"
        raise too_much("answers", sent, "max_choices", bounds.max_choices, name if n == 1 else field_name)


def _check_logprobs(name: str, value: Any, bounds: RequestBounds) -> None:
    count = None if isinstance(value, bool) else _number(value)
    if count is not None and (count == -1 or count > bounds.max_logprobs):
        sent = "all of the vocabulary" if count == -1 else count
        raise too_much("logprobs for each token", sent, "max_logprobs", bounds.max_logprobs, name)


def _check_stops(name: str, value: Any, bounds: RequestBounds) -> None:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        return
    _check(len(texts), "stop strings", "max_stop_strings", bounds, name)
    for text in texts:
        if isinstance(text, str):
            _check(len(text), "characters in a stop string", "max_stop_chars", bounds, name)


def _check_inputs(body: Mapping[str, Any], bounds: RequestBounds) -> None:
    for name in _INPUT_LISTS:
        value = body.get(name)
        if isinstance(value, dict) or (isinstance(value, list) and not _is_ids(value)):
            _check(len(value), f"entries in {name}", "max_inputs", bounds, name)
    messages = body.get("messages")
    for conversation in [messages, *(messages if isinstance(messages, list) else ())]:
        if isinstance(conversation, list):
            _check(len(conversation), "messages", "max_messages", bounds, "messages")


def _is_ids(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], int)


def _number(value: Any) -> int | None:
    """Return a whole number as an engine reads it; None where it is none."""
    if type(value) is int:
        return value
    try:
        return None if value is None else read_int(value)
    except ValueError:
        return None


_PROMPT_FIELDS = ("messages", "system", "tools", "instructions", "input", "prompt", "query", "state", "questions")


def max_prompt_chars(max_model_len: int | None, bounds: RequestBounds) -> int:
    """Return how many characters one prompt may have. max_model_len: tokens, None where no engine reported them."""
    if max_model_len is None:
        return UNKNOWN_CONTEXT_CHARS
    return max(MIN_PROMPT_CHARS, bounds.max_chars_per_token * max_model_len)


_PROMPT_FIELDS = ("messages", "system", "tools", "instructions", "input", "prompt", "query", "state", "questions")


def check_prompt(
    body: Mapping[str, Any], size: int, media_chars: int, max_model_len: int | None, bounds: RequestBounds
) -> None:
    """Check that no prompt is far longer than the model's context: vLLM may tokenize it before it refuses it.

    Args:
        body: the request's.
        size: of the whole body, in bytes: where that is within the bound nothing is counted.
        media_chars: of media in the body, which are no text.
        max_model_len: the context in tokens, None where unknown.
        bounds: of requests.

    Raises:
        RequestRejected: (413) with the limit.
    """
    limit = max_prompt_chars(max_model_len, bounds)
    if size <= limit:
        return
    longest = _longest_prompt(body) - media_chars
    if longest <= limit:
        return
    context = "" if max_model_len is None else f", which is more than a context of {max_model_len} tokens takes"
    message = (
        f"The prompt has {longest} characters{context}; up to {limit} are processed "
        "(SYNKTI_MAX_CHARS_PER_TOKEN on the nodes)."
    )
    raise RequestRejected(413, "prompt_too_long", message)


def _longest_prompt(body: Mapping[str, Any]) -> int:
    """Return the characters of the longest of several prompts, or of all fields that make one."""
    prompt = body.get("prompt", body.get("input"))
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
        return max(len(each) for each in prompt if isinstance(each, str))
    lists = (body[name] for name in _INPUT_LISTS if name != "input" and isinstance(body.get(name), list))
    single = max((_text_chars([each]) for items in lists for each in items), default=0)
    return max(single, _text_chars(body[name] for name in _PROMPT_FIELDS if name in body))


def _text_chars(values: Iterable[Any]) -> int:
    """Return the characters of all texts in JSON values."""
    total, pending = 0, list(values)
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            total += len(each)
        elif isinstance(each, dict):
            pending += each.values()
        elif isinstance(each, list):
            pending += each
    return total
