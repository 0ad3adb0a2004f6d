"""Which way an answer goes on: a pure function of what its state is made of and of what the next engine can.

    rewind    a plain completion from the prompt and the ids: every engine can. Right where nothing but the ids matters
    resume    the request itself, started behind its ids (the plug-in): one prefill, whatever the state is made of
    forced    the request itself, its ids generated once more, each forced: a decode step for each

What an engine can is not what it says but what its agent's self-test found (`core/continuation/self_test`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.openai.generation_request import GenerationRequest


class ContinuationMethod(Enum):
    """How the next engine is asked. The values of the last two are what nodes advertise."""

    REPROMPT = "rewind"
    RESUME = "resume"
    FORCED_DECODING = "forced"


@dataclass(frozen=True)
class MethodChoice:
    """The way, and why this one."""

    method: ContinuationMethod
    reason: str


BodyPredicate = Callable[[Mapping[str, Any]], bool]


def _is_structured(body: Mapping[str, Any]) -> bool:
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
        return True
    return bool(body.get("structured_outputs")) or any(key.startswith("guided_") and body[key] for key in body)


def _is_sampled(body: Mapping[str, Any]) -> bool:
    return body.get("temperature") != 0


_STATE_BEYOND_IDS: tuple[tuple[BodyPredicate, str], ...] = (
    (_is_structured, "structured output: the grammar would start again"),
    (
        lambda body: body.get("seed") is not None and _is_sampled(body),
        "a seed: its random numbers would start again",
    ),
    (lambda body: bool(body.get("frequency_penalty")), "frequency_penalty: it counts the answer's own tokens"),
    (lambda body: bool(body.get("presence_penalty")), "presence_penalty: it counts the answer's own tokens"),
    (lambda body: bool(body.get("bad_words")), "bad_words: they are looked for in the answer's own tokens"),
    (lambda body: bool(body.get("repetition_detection")), "repetition_detection: it reads the answer's own tokens"),
    (lambda body: body.get("thinking_token_budget") is not None, "thinking_token_budget: it counts the thinking"),
    (lambda body: bool(body.get("tools")) and body.get("tool_choice") != "none", "tools: their parser has a state"),
    (
        lambda body: bool(body.get("vllm_xargs")),
        "vllm_xargs: a logits processor's, which reads the answer's own tokens",
    ),
)
"""What a request's state is made of beside its ids: a rewind would corrupt it.

A logits processor is given the answer's ids when a request comes into the batch (vLLM's BatchUpdate.added), be it new,
after a preemption or resumed; forced replay has it take each step again.
"""

_PREFERS_RESUME: tuple[tuple[Callable[[GenerationRequest], bool], str], ...] = (
    (
        lambda asked: asked.wants_logprobs,
        "logprobs: a completion tells candidates that read the same as one",
    ),
    (
        lambda asked: asked.max_tokens is None,
        "no max_tokens: a completion has to be given some, and gets them piece by piece",
    ),
    (
        lambda asked: _is_sampled(asked.body) and (asked.wants_ids or asked.stop_holdback_chars > 0),
        "sampling: a rewind would draw again what is behind its mark, and the client knows of it",
    ),
)
"""What a rewind goes on with, but not to the bit, or not at the first try; a resume does."""


def reprompt_obstacle(generation: GenerationRequest, *, only_text: bool) -> str | None:
    """What the answer's state is made of beside its ids; None where a rewind is right.

    only_text: whether the answer had nothing but text so far, no reasoning and no tool calls.
    """
    if not only_text:
        return "reasoning or tool calls: their parser has a state"
    return next((why for applies, why in _STATE_BEYOND_IDS if applies(generation.body)), None)


def choose_method(generation: GenerationRequest, able: Collection[str], *, only_text: bool) -> MethodChoice:
    """The way at an engine whose node advertises `able`. Raises ContinuationImpossible, saying why."""
    state = reprompt_obstacle(generation, only_text=only_text)
    if state is None:
        better = next((why for applies, why in _PREFERS_RESUME if applies(generation)), None)
        if better is not None and ContinuationMethod.RESUME.value in able:
            return MethodChoice(ContinuationMethod.RESUME, better)
        return MethodChoice(ContinuationMethod.REPROMPT, "only its ids matter")
    if ContinuationMethod.RESUME.value in able:
        return MethodChoice(ContinuationMethod.RESUME, state)
    if ContinuationMethod.FORCED_DECODING.value in able:
        return MethodChoice(ContinuationMethod.FORCED_DECODING, f"{state}, and the engine cannot resume")
    raise ContinuationImpossible(state)
