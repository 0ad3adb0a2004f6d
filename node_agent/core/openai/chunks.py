"""Read, build and change chunks of OpenAI's completions, as vLLM 0.32 writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node_agent.core.openai.generation_request import ApiRoute

REASONING = ("reasoning", "reasoning_content")
"""The field of a delta's reasoning, now and in earlier versions of vLLM."""

COMPLETE_REASONS = frozenset({"stop", "length", "tool_calls", "repetition"})
"""Only these end an answer; `repetition` is vLLM's own, and only where a request turned its detection on."""


def text_of(route: ApiRoute, choice: Mapping[str, Any]) -> str:
    """Return the text that a chunk's choice adds to the answer."""
    if route is ApiRoute.COMPLETION:
        return choice.get("text") or ""
    delta = choice.get("delta")
    return (delta.get("content") or "") if delta else ""


def has_parsed_output(delta: Mapping[str, Any]) -> bool:
    """Return whether a chat's delta has reasoning or tool calls: a reprompt would lose their parser's state."""
    return any(delta.get(key) for key in (*REASONING, "tool_calls"))


def has_no_output(delta: Mapping[str, Any]) -> bool:
    """Return whether a parser consumed an id without output. Without a parser an id has a content, even if empty."""
    return delta.get("content") is None and "role" not in delta and not has_parsed_output(delta)


def carries_reasoning(delta: Mapping[str, Any], *, has_text: bool) -> bool:
    """Return whether the ids of a chat's delta are reasoning: it has some, or its parser holds them.

    has_text: the answer has a text already; from then on a parser holds only a partial character.
    """
    return any(delta.get(key) for key in REASONING) or (not has_text and has_no_output(delta))


def hide_reasoning(choice: dict[str, Any]) -> bool:
    """Remove reasoning and its ids from a chat's choice, in place; return whether nothing is left."""
    delta = choice.get("delta") or {}
    for key in REASONING:
        delta.pop(key, None)
    choice.update({key: None for key in ("token_ids", "logprobs") if key in choice})
    return not any(delta.values())


def strip_ids(chunk: dict[str, Any], *, echoes: bool = False) -> None:
    """Replace ids that the client did not request by null, in place, as vLLM does.

    echoes: the client requested an echo, for which vLLM sends the ids of the prompt in any case.
    """
    if "prompt_token_ids" in chunk:
        chunk["prompt_token_ids"] = None
    for choice in chunk["choices"]:
        if "token_ids" in choice:
            choice["token_ids"] = None
        if "prompt_token_ids" in choice and not echoes:
            choice["prompt_token_ids"] = None


def make_choice(
    route: ApiRoute, index: int, text: str, ids: list[int] | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a choice of a chunk in the form of the client's route.

    ids: None where the client wants none. fields: optional `logprobs` in the client's form, `reason` and `stop` at the
    end, `role` with a chat's first.
    """
    reason = fields.get("reason")
    choice: dict[str, Any] = {"index": index}
    if route is ApiRoute.CHAT:
        delta = {"role": "assistant", "content": text} if fields.get("role") else {"content": text}
        choice |= {"delta": delta, "logprobs": fields.get("logprobs"), "finish_reason": reason}
    else:
        choice |= {"text": text, "logprobs": fields.get("logprobs"), "finish_reason": reason}
    if reason is not None or route is ApiRoute.COMPLETION:
        choice["stop_reason"] = fields.get("stop")
    choice["token_ids"] = ids
    return choice


def usage_details(engine_usage: Mapping[str, Any], prompt_tokens: int) -> dict[str, Any]:
    """Return the usage fields of a continuing engine beside the counts, which cover only its own part.

    Its prompt was the client's and the answer so far: cached tokens beyond the client's prompt do not count.
    """
    details = {key: value for key, value in engine_usage.items() if key not in _COUNT_FIELDS}
    prompt_details = details.get("prompt_tokens_details")
    if isinstance(prompt_details, dict) and isinstance(cached := prompt_details.get("cached_tokens"), int):
        details["prompt_tokens_details"] = {**prompt_details, "cached_tokens": min(cached, prompt_tokens)}
    return details


_COUNT_FIELDS = frozenset({"prompt_tokens", "total_tokens", "completion_tokens"})


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Build the counts of a usage."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }
