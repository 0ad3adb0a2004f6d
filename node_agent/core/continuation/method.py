"""Choose how an answer continues: a pure function of its state and of the methods that the next engine supports.

    reprompt           a plain completion from the prompt and the ids. Every engine supports it. Correct where the state
                       is nothing but the ids
    resume             the request itself, started after its ids by the plug-in: one prefill, whatever the state is
    forced decoding    the request itself, its ids generated once more, each forced: a decode step for each

The self-test of an engine's agent finds out what the engine supports (`core/continuation/self_test`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.openai.generation_request import GenerationRequest


class ContinuationMethod(Enum):
    """How the next engine continues an answer. Nodes advertise the values of the last two."""

    REPROMPT = "rewind"
    RESUME = "resume"
    FORCED_DECODING = "forced"


@dataclass(frozen=True)
class MethodChoice:
    """A continuation method, and the reason for it."""

    method: ContinuationMethod
    reason: str


BodyPredicate = Callable[[Mapping[str, Any]], bool]


def _is_structured(body: Mapping[str, Any]) -> bool:
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
        return True
    return bool(body.get("structured_outputs")) or any(key.startswith("guided_") and body[key] for key in body)


def is_sampled(body: Mapping[str, Any]) -> bool:
    """Return whether an engine that gets the same request again may draw other tokens."""
    return body.get("temperature") != 0


_STATE_BEYOND_IDS: tuple[tuple[BodyPredicate, str], ...] = (
    (_is_structured, "structured output: the grammar would start again"),
    (
        lambda body: body.get("seed") is not None and is_sampled(body),
        "a seed: its random numbers would start again",
    ),
    (lambda body: bool(body.get("frequency_penalty")), "frequency_penalty: it counts the answer's own tokens"),
    (lambda body: bool(body.get("presence_penalty")), "presence_penalty: it counts the answer's own tokens"),
    (lambda body: bool(body.get("bad_words")), "bad_words: they are looked for in the answer's own tokens"),
    (lambda body: bool(body.get("repetition_detection")), "repetition_detection: it reads the answer's own tokens"),
    (lambda body: body.get("thinking_token_budget") is not None, "thinking_token_budget: it counts the reasoning"),
    (lambda body: bool(body.get("tools")) and body.get("tool_choice") != "none", "tools: their parser has a state"),
    (
        lambda body: bool(body.get("vllm_xargs")),
        "vllm_xargs: a logits processor's, which reads the answer's own tokens",
    ),
)
"""State of a request beside its ids, which a reprompt would corrupt.

A logits processor gets the answer's ids when a request enters the batch (vLLM's BatchUpdate.added), be it new, after a
preemption or resumed; forced decoding runs each of its steps again.
"""

_PREFERS_RESUME: tuple[tuple[Callable[[GenerationRequest], bool], str], ...] = (
    (
        lambda request: request.wants_logprobs,
        "logprobs: a completion merges candidates that have the same text",
    ),
    (
        lambda request: request.max_tokens is None,
        "no max_tokens: a completion needs a limit, so it is requested in segments",
    ),
    (
        lambda request: is_sampled(request.body) and (request.wants_ids or request.stop_holdback_chars > 0),
        "sampling: a reprompt would draw again what follows its resume point, and the client would see it",
    ),
)
"""Cases that a reprompt continues, but not to the bit, or not at the first try; a resume does."""


def reprompt_obstacle(generation: GenerationRequest, *, only_text: bool) -> str | None:
    """Return the state of the answer beside its ids; None where a reprompt is correct.

    only_text: the answer had nothing but text so far, no reasoning and no tool calls.
    """
    if not only_text:
        return "reasoning or tool calls: their parser has a state"
    return next((reason for applies, reason in _STATE_BEYOND_IDS if applies(generation.body)), None)


_REDRAWS = "sampling: the engine joined several tokens, and a reprompt would draw again text that the client has"


def choose_method(
    generation: GenerationRequest, supported_methods: Collection[str], *, only_text: bool, redraws: bool = False
) -> MethodChoice:
    """Choose the method by which an engine continues an answer.

    Args:
        generation: the client's request.
        supported_methods: what the engine's node advertises: values of RESUME and FORCED_DECODING.
        only_text: the answer had nothing but text so far, no reasoning and no tool calls.
        redraws: a reprompt would sample again text that the client has.

    Returns:
        A reprompt where that is correct, unless a resume is supported and more exact; else a resume before forced
        decoding, because it is faster.

    Raises:
        ContinuationImpossible: A reprompt is wrong and no other method is supported; its message is the obstacle.
    """
    obstacle = reprompt_obstacle(generation, only_text=only_text)
    if obstacle is None:
        preference = next((reason for applies, reason in _PREFERS_RESUME if applies(generation)), None)
        preference = preference or (_REDRAWS if redraws else None)
        if preference is not None and ContinuationMethod.RESUME.value in supported_methods:
            return MethodChoice(ContinuationMethod.RESUME, preference)
        return MethodChoice(ContinuationMethod.REPROMPT, "only its ids matter")
    if ContinuationMethod.RESUME.value in supported_methods:
        return MethodChoice(ContinuationMethod.RESUME, obstacle)
    if ContinuationMethod.FORCED_DECODING.value in supported_methods:
        return MethodChoice(ContinuationMethod.FORCED_DECODING, f"{obstacle}, and the engine cannot resume")
    raise ContinuationImpossible(obstacle)
