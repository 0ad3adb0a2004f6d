"""The chunks of OpenAI's completions, as vLLM 0.32 writes them: what one says, and one made or changed for a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node_agent.core.openai.generation_request import ApiRoute

REASONING = ("reasoning", "reasoning_content")
"""How a delta's reasoning is called, now and in earlier versions of vLLM."""

COMPLETE_REASONS = frozenset({"stop", "length", "tool_calls", "repetition"})
"""Only these end an answer; `repetition` is vLLM's own, and only where a request turned its detection on."""


def text_of(kind: ApiRoute, choice: Mapping[str, Any]) -> str:
    """What a chunk's choice adds to the answer."""
    if kind is ApiRoute.COMPLETION:
        return choice.get("text") or ""
    delta = choice.get("delta")
    return (delta.get("content") or "") if delta else ""


def has_parsed_output(delta: Mapping[str, Any]) -> bool:
    """Whether a chat's delta has reasoning or tool calls: the state of their parser is what a rewind would lose."""
    return any(delta.get(key) for key in (*REASONING, "tool_calls"))


def has_no_output(delta: Mapping[str, Any]) -> bool:
    """Whether a parser had an id and said nothing. Without a parser an id comes with a content, if an empty one."""
    return delta.get("content") is None and "role" not in delta and not has_parsed_output(delta)


def carries_reasoning(delta: Mapping[str, Any], *, speaks: bool) -> bool:
    """Whether the ids of a chat's delta are a reasoning's: it says some, or its parser keeps them to itself.

    speaks: whether the answer has a text already; what is kept from then on is half a character of it.
    """
    return any(delta.get(key) for key in REASONING) or (not speaks and has_no_output(delta))


def hide_reasoning(choice: dict[str, Any]) -> bool:
    """Take the reasoning out of a chat's choice, and what tells of its ids, in place; whether nothing is left."""
    delta = choice.get("delta") or {}
    for key in REASONING:
        delta.pop(key, None)
    choice.update({key: None for key in ("token_ids", "logprobs") if key in choice})
    return not any(delta.values())


def strip_ids(chunk: dict[str, Any], *, echoes: bool = False) -> None:
    """Take out, in place, what the client did not ask for: vLLM says null there.

    echoes: whether it asked for an echo, of which vLLM tells the ids of the prompt in any case.
    """
    if "prompt_token_ids" in chunk:
        chunk["prompt_token_ids"] = None
    for choice in chunk["choices"]:
        if "token_ids" in choice:
            choice["token_ids"] = None
        if "prompt_token_ids" in choice and not echoes:
            choice["prompt_token_ids"] = None


def make_choice(
    kind: ApiRoute, index: int, text: str, ids: list[int] | None, said: Mapping[str, Any]
) -> dict[str, Any]:
    """A choice in the client's own form.

    ids: None where the client wants none; said: what there may be beside: `logprobs` in the client's form, `reason` and
    `stop` of the end, `role` with a chat's first.
    """
    reason = said.get("reason")
    choice: dict[str, Any] = {"index": index}
    if kind is ApiRoute.CHAT:
        delta = {"role": "assistant", "content": text} if said.get("role") else {"content": text}
        choice |= {"delta": delta, "logprobs": said.get("logprobs"), "finish_reason": reason}
    else:
        choice |= {"text": text, "logprobs": said.get("logprobs"), "finish_reason": reason}
    if reason is not None or kind is ApiRoute.COMPLETION:
        choice["stop_reason"] = said.get("stop")
    choice["token_ids"] = ids
    return choice


def usage_details(told: Mapping[str, Any], prompt_tokens: int) -> dict[str, Any]:
    """What an engine that goes on tells beside the counts, of which it knows its own part only.

    Its prompt was the client's and the answer so far: of what it had in its cache, no more than the prompt counts.
    """
    details = {key: value for key, value in told.items() if key not in _COUNT_FIELDS}
    of_prompt = details.get("prompt_tokens_details")
    if isinstance(of_prompt, dict) and isinstance(cached := of_prompt.get("cached_tokens"), int):
        details["prompt_tokens_details"] = {**of_prompt, "cached_tokens": min(cached, prompt_tokens)}
    return details


_COUNT_FIELDS = frozenset({"prompt_tokens", "total_tokens", "completion_tokens"})


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }
