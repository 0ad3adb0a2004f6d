"""Build the requests with which the next engine continues an answer.

The reprompt rule: request a plain completion of `prompt ids + ids[:j]`, where j is the last resume point of the
history, with the limits reduced by j, and drop what the client already has. Why not from all ids:

* resuming inside a character of several tokens makes vLLM send the *whole prompt* as text;
* with stop strings the engine holds text back, so the ids are ahead of what was delivered.

Where a reprompt is wrong (`core/continuation/method`), the request itself is sent again, with all ids of the choice as
an argument to the engine's plug-in, which starts after them or forces them one by one. Either way the engine sends the
answer from its beginning; a server that does not know the argument does so too, with an answer of its own. So every id
that arrives is compared with the one that the client has (`core/journal/token_history`).
"""

from __future__ import annotations

from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.journal.token_history import TokenHistory
from node_agent.core.openai.generation_request import PER_TOKEN, ApiRoute, GenerationRequest
from node_agent.core.openai.logprobs import completion_logprobs

RESUME_IDS = "synkti_resume_ids"
FORCED_IDS = "synkti_forced_ids"
EMIT_IDS = "synkti_tell_ids"
"""Arguments of the plug-in; `engine_plugin/synkti_engine/arguments` validates them."""

_REPROMPT_FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output",
    "skip_special_tokens", "spaces_between_special_tokens", "logit_bias", "repetition_penalty", "allowed_token_ids",
    "cache_salt", "priority", "user", "return_tokens_as_token_ids",
)  # fmt: skip
"""Fields that mean the same for the rest of an answer. The others are converted, or forbid a reprompt."""

_DROPPED_FIELDS = frozenset({"echo", "n", "stream_options"})
"""Fields to omit where a request is sent again for one choice: this node produces their output itself."""

_PROMPT_LOGPROB_FIELDS = ("echo", "prompt_logprobs")
"""Fields that request the logprobs of the prompt, for a client that has none of them yet."""

MAX_SEGMENT_TOKENS = 256
"""Ids in one segment of an answer without a limit: a prompt that ends within this distance of the context's end may be
refused."""

_MIN_SEGMENT_TOKENS = 16
"""A segment must contain a resume point, which a partial character and a chunk of several ids do not set."""

REPROMPT_PATH = ApiRoute.COMPLETION.value


def reprompt_body(
    generation: GenerationRequest, choice: int, history: TokenHistory, *, has_started: bool = True
) -> bytes:
    """Rewind a choice's history to its last resume point, and build the request that continues from there.

    Args:
        generation: the client's request.
        choice: the choice's index.
        history: the choice's, which then expects what follows that resume point.
        has_started: the client has a part of the choice.

    Returns:
        The body for REPROMPT_PATH.

    Raises:
        ContinuationImpossible: The prompt's ids are unknown, and its text is not enough.
    """
    point = history.last_resume_point(generation.max_tokens)
    history.rewind(point)
    body = {key: generation.body[key] for key in _REPROMPT_FIELDS if key in generation.body}
    body |= {
        "model": generation.model,
        "stream": True,
        "return_token_ids": True,
        "max_tokens": segment_tokens(history) if generation.max_tokens is None else generation.max_tokens - point.ids,
    }
    if history.prompt_ids is not None:
        body |= {"prompt": [*history.prompt_ids, *history.ids], "add_special_tokens": False}
    elif generation.prompt_count and not history.ids:
        body["prompt"] = generation.prompt(generation.prompt_index(choice))
        body |= {key: generation.body[key] for key in ("add_special_tokens",) if key in generation.body}
    else:
        raise ContinuationImpossible("the engine never sent the prompt's ids")
    if (logprobs := completion_logprobs(generation)) is not None:
        body["logprobs"] = logprobs
    body |= _prompt_logprob_args(generation, has_started=has_started) | _usage_args(generation)
    if (min_tokens := generation.body.get("min_tokens") or 0) > point.ids:
        body["min_tokens"] = min(min_tokens - point.ids, body["max_tokens"])
    return orjson.dumps(body)


def segment_tokens(history: TokenHistory) -> int:
    """Return how many ids to request of a completion where the answer has no limit.

    A completion without a limit gets 16 ids, and a limit beyond the context is refused; the context's length is
    unknown. So a segment is short, and never longer than prompt and answer so far.
    """
    context = len(history.prompt_ids or ()) + len(history.ids)
    return min(MAX_SEGMENT_TOKENS, max(_MIN_SEGMENT_TOKENS, context))


def _prompt_logprob_args(generation: GenerationRequest, *, has_started: bool) -> dict[str, Any]:
    if has_started or not generation.returns_prompt_logprobs:
        return {}
    return {key: generation.body[key] for key in _PROMPT_LOGPROB_FIELDS if key in generation.body}


def _usage_args(generation: GenerationRequest) -> dict[str, Any]:
    """Request a usage where the client wants one: the engine knows its details, this node makes the counts."""
    return {"stream_options": {"include_usage": True}} if generation.wants_usage else {}


def resume_body(
    generation: GenerationRequest,
    choice: int,
    history: TokenHistory,
    method: ContinuationMethod,
    *,
    per_token: bool,
    has_started: bool = True,
) -> bytes:
    """Restart a choice's history, and build the request that makes an engine repeat the choice and continue.

    Args:
        generation: the client's request.
        choice: the choice's index.
        history: the choice's, which then compares what the engine repeats.
        method: RESUME or FORCED_DECODING.
        per_token: a parser of the engine reads the answer, and must receive its ids one by one, as it did the first
            time.
        has_started: the client has a part of the choice.

    Returns:
        The body for the request's own route: the client's, for one choice, with the ids as an argument of the plug-in.
    """
    ids = history.restart()
    if generation.max_tokens is not None:
        ids = ids[: max(0, generation.max_tokens - 1)]  # something must be left to generate; it is then compared
    body = {key: value for key, value in generation.body.items() if key not in _DROPPED_FIELDS}
    body |= {
        "stream": True,
        "return_token_ids": True,
        **_prompt_logprob_args(generation, has_started=has_started),
        **_usage_args(generation),
    }
    if generation.hides_reasoning:
        body["include_reasoning"] = True
    if generation.prompt_count:
        body["prompt"] = generation.prompt(generation.prompt_index(choice))
    choices_per_prompt = generation.choices // max(1, generation.prompt_count)
    if choices_per_prompt > 1 and body.get("seed") is not None:
        body["seed"] += choice % choices_per_prompt  # as vLLM seeds the choices of one prompt
    if ids:
        arguments: dict[str, Any] = {(RESUME_IDS if method is ContinuationMethod.RESUME else FORCED_IDS): ids}
        body["vllm_xargs"] = (body.get("vllm_xargs") or {}) | arguments | ({PER_TOKEN: 1} if per_token else {})
    return orjson.dumps(body)
