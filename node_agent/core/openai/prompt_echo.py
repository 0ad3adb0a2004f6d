"""Request the prompts' texts for an echo where the client sent ids, so that only an engine can decode them.

For ids and echo in one request vLLM omits the text (but sends the prompt's logprobs). So the first request is for the
echo alone, of all prompts at once; the second is for the answers, with ids, and this node prepends the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from node_agent.core.openai.generation_request import GenerationRequest

_ANSWER_FIELDS = frozenset(
    {"n", "logprobs", "prompt_logprobs", "logprob_token_ids", "min_tokens", "stream_options", "vllm_xargs"}
)
"""Fields that do not affect the echo, and that a request for the echo alone must not have or does not need."""


def needs_prompt_texts(generation: GenerationRequest) -> bool:
    """Return whether the texts must be requested before the answers."""
    return generation.prepends_prompt and not generation.echoes


def echo_body(generation: GenerationRequest) -> bytes:
    """Build the body for /v1/completions that yields only the prompts' texts."""
    body = {key: value for key, value in generation.body.items() if key not in _ANSWER_FIELDS}
    return orjson.dumps({**body, "max_tokens": 0, "return_token_ids": False})


class PromptTextCollector:
    """Collect the texts of all prompts from an engine's chunks."""

    def __init__(self, prompts: int) -> None:
        self._texts: list[str | None] = [None] * prompts

    def add(self, choice: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Add a chunk's choice, which has one complete text; return all texts with the last. Raises ValueError."""
        index, text = choice.get("index"), choice.get("text")
        if not isinstance(index, int) or not 0 <= index < len(self._texts) or not isinstance(text, str):
            raise ValueError("no text of a prompt")
        self._texts[index] = text
        known = tuple(text for text in self._texts if text is not None)
        return known if len(known) == len(self._texts) else None


def is_chat_echo(generation: GenerationRequest, choice: Mapping[str, Any]) -> bool:
    """Return whether a chat's chunk is its echo, the last message's content: a separate chunk after the roles."""
    delta = choice.get("delta")
    if not delta or "role" in delta or not generation.body.get("echo") or choice.get("token_ids") is not None:
        return False
    content = generation.body["messages"][-1].get("content")
    return bool(content) and delta.get("content") == content
