"""The prompts' texts, where the client wants them echoed and only an engine knows them: it sent ids.

Asked for ids and echo at once, vLLM leaves the text out (it tells the prompt's logprobs all the same). So it is asked
for the echo by itself first, of all prompts in one request; then for the answers, with ids, and the front door puts the
texts before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from node_agent.core.openai.generation_request import GenerationRequest

_ANSWER_FIELDS = frozenset(
    {"n", "logprobs", "prompt_logprobs", "logprob_token_ids", "min_tokens", "stream_options", "vllm_xargs"}
)
"""Fields of a request that its echo does not depend on, and that no request for nothing else may have, or need have."""


def needs_prompt_texts(generation: GenerationRequest) -> bool:
    """Whether the texts have to be asked for before the answers can be."""
    return generation.prepends_prompt and not generation.echoes


def echo_body(generation: GenerationRequest) -> bytes:
    """The body for /v1/completions that brings the prompts' texts, and nothing else."""
    body = {key: value for key, value in generation.body.items() if key not in _ANSWER_FIELDS}
    return orjson.dumps({**body, "max_tokens": 0, "return_token_ids": False})


class PromptTextCollector:
    """What the engine has told of them so far."""

    def __init__(self, prompts: int) -> None:
        self._texts: list[str | None] = [None] * prompts

    def add(self, choice: Mapping[str, Any]) -> tuple[str, ...] | None:
        """A chunk's choice, which has all of one text; returns all texts with the last. Raises ValueError."""
        index, text = choice.get("index"), choice.get("text")
        if not isinstance(index, int) or not 0 <= index < len(self._texts) or not isinstance(text, str):
            raise ValueError("no text of a prompt")
        self._texts[index] = text
        known = tuple(text for text in self._texts if text is not None)
        return known if len(known) == len(self._texts) else None


def is_chat_echo(generation: GenerationRequest, choice: Mapping[str, Any]) -> bool:
    """Whether a chat's chunk is its echo, the last message's content: it comes by itself, behind the roles."""
    delta = choice.get("delta")
    if not delta or "role" in delta or not generation.body.get("echo") or choice.get("token_ids") is not None:
        return False
    content = generation.body["messages"][-1].get("content")
    return bool(content) and delta.get("content") == content
