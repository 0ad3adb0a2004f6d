"""What the next engine is asked, so that it goes on with an answer.

The rewind rule: resume a plain completion from `prompt ids + ids[:j]`, where j is the furthest mark of the journal,
with the limits reduced by j, and drop what the client already has. Why not from all ids:

* resuming inside a character of several tokens makes vLLM send the *whole prompt* as text;
* with stop strings the engine keeps text back, so the ids are ahead of what was delivered.

Where a rewind is wrong (`core/continuation/method`), the request itself is asked again, with all ids of the choice as
an argument to the engine's plug-in, which starts behind them or forces them one by one. Either way the engine tells the
answer from its beginning; a server that does not know the argument does so too, with an answer of its own. So every id
that comes is compared with the one that the client has (`core/journal/token_history`).
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
"""The plug-in's arguments (`engine_plugin/synkti_engine/arguments`), which validates them."""

_REPROMPT_FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output",
    "skip_special_tokens", "spaces_between_special_tokens", "logit_bias", "repetition_penalty", "allowed_token_ids",
    "cache_salt", "priority", "user", "return_tokens_as_token_ids",
)  # fmt: skip
"""Fields of a request that mean the same for the rest of its answer. Others are dealt with, or rule a rewind out."""

_DROPPED_FIELDS = frozenset({"echo", "n", "stream_options"})
"""Fields that are left out where a request is asked again for one choice: what they bring is made here."""

_PROMPT_LOGPROB_FIELDS = ("echo", "prompt_logprobs")
"""What brings the logprobs of a prompt whose client has none of them yet."""

MAX_SEGMENT_TOKENS = 256
"""Ids of an answer without a limit that are asked for at once: so many before its end a context may be refused."""

_MIN_SEGMENT_TOKENS = 16
"""A piece has to have a mark in it, which half a character and a chunk of several ids are not."""

REPROMPT_PATH = ApiRoute.COMPLETION.value


def reprompt_body(generation: GenerationRequest, choice: int, journal: TokenHistory, *, begun: bool = True) -> bytes:
    """Rewind a choice's journal, and return the body for /v1/completions that goes on from there.

    begun: whether the client has anything of the choice. Raises ContinuationImpossible where the prompt's ids are not
    known.
    """
    mark = journal.last_resume_point(generation.max_tokens)
    journal.rewind(mark)
    body = {key: generation.body[key] for key in _REPROMPT_FIELDS if key in generation.body}
    body |= {
        "model": generation.model,
        "stream": True,
        "return_token_ids": True,
        "max_tokens": segment_tokens(journal) if generation.max_tokens is None else generation.max_tokens - mark.ids,
    }
    if journal.prompt_ids is not None:
        body |= {"prompt": [*journal.prompt_ids, *journal.ids], "add_special_tokens": False}
    elif generation.prompt_count and not journal.ids:
        body["prompt"] = generation.prompt(generation.prompt_index(choice))
        body |= {key: generation.body[key] for key in ("add_special_tokens",) if key in generation.body}
    else:
        raise ContinuationImpossible("the engine never said which ids the prompt has")
    if (logprobs := completion_logprobs(generation)) is not None:
        body["logprobs"] = logprobs
    body |= _prompt_logprob_args(generation, begun=begun) | _usage_args(generation)
    if (min_tokens := generation.body.get("min_tokens") or 0) > mark.ids:
        body["min_tokens"] = min(min_tokens - mark.ids, body["max_tokens"])
    return orjson.dumps(body)


def segment_tokens(journal: TokenHistory) -> int:
    """How many ids to ask a completion for where the answer has no limit.

    A completion without a limit gets 16, and a limit beyond the context is refused; how long that is, nobody says. So a
    piece is short before a context's end, and not longer than all that is there, for which there was room.
    """
    there = len(journal.prompt_ids or ()) + len(journal.ids)
    return min(MAX_SEGMENT_TOKENS, max(_MIN_SEGMENT_TOKENS, there))


def _prompt_logprob_args(generation: GenerationRequest, *, begun: bool) -> dict[str, Any]:
    if begun or not generation.returns_prompt_logprobs:
        return {}
    return {key: generation.body[key] for key in _PROMPT_LOGPROB_FIELDS if key in generation.body}


def _usage_args(generation: GenerationRequest) -> dict[str, Any]:
    """Where the client wants a usage, its details are the engine's to tell; the counts are made here."""
    return {"stream_options": {"include_usage": True}} if generation.wants_usage else {}


def resume_body(
    generation: GenerationRequest,
    choice: int,
    journal: TokenHistory,
    way: ContinuationMethod,
    *,
    apart: bool,
    begun: bool = True,
) -> bytes:
    """Let a choice's journal be repeated; return the request's own body that makes an engine repeat it and go on.

    way: RESUME or FORCED; apart: whether a parser of the engine's reads the answer, which is then told its ids one by
    one, as it was the first time; begun: as of `reprompt_body`.
    """
    ids = journal.restart()
    if generation.max_tokens is not None:
        ids = ids[: max(0, generation.max_tokens - 1)]  # something must be left to generate; it is then compared
    body = {key: value for key, value in generation.body.items() if key not in _DROPPED_FIELDS}
    body |= {
        "stream": True,
        "return_token_ids": True,
        **_prompt_logprob_args(generation, begun=begun),
        **_usage_args(generation),
    }
    if generation.hides_reasoning:
        body["include_reasoning"] = True
    if generation.prompt_count:
        body["prompt"] = generation.prompt(generation.prompt_index(choice))
    each = generation.choices // max(1, generation.prompt_count)
    if each > 1 and body.get("seed") is not None:
        body["seed"] += choice % each  # as vLLM seeds the choices of one prompt
    if ids:
        told: dict[str, Any] = {(RESUME_IDS if way is ContinuationMethod.RESUME else FORCED_IDS): ids}
        body["vllm_xargs"] = (body.get("vllm_xargs") or {}) | told | ({PER_TOKEN: 1} if apart else {})
    return orjson.dumps(body)
