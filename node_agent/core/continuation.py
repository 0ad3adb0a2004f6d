"""How an answer goes on in another engine, and whether it can.

The rewind rule: resume a plain completion from `prompt ids + ids[:j]`, where j is the furthest mark of the journal,
with the limits reduced by j, and drop what the client already has. Why not from all ids:

* resuming inside a character of several tokens makes vLLM send the *whole prompt* as text;
* with stop strings the engine keeps text back, so the ids are ahead of what was delivered.

The way is a pure function of the request (DESIGN 5.9). Only rewind exists so far; what it would corrupt is refused,
with its reason: an answer that silently differs is worse than one that ends with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.completions import Generation, Kind
from node_agent.core.journal import Journal
from node_agent.core.logprobs import asked_of_completion

_CARRIED = (
    "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output",
    "skip_special_tokens", "spaces_between_special_tokens", "logit_bias", "repetition_penalty", "bad_words",
    "allowed_token_ids", "cache_salt", "priority", "user", "repetition_detection", "return_tokens_as_token_ids",
)  # fmt: skip
"""Fields of a request that mean the same for the rest of its answer. All others are either dealt with or refused."""


def _structured(body: Mapping[str, Any]) -> bool:
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
        return True
    return bool(body.get("structured_outputs")) or any(key.startswith("guided_") and body[key] for key in body)


def _echo_by_engine(generation: Generation) -> bool:
    if not generation.body.get("echo") or generation.echoes:
        return False
    return generation.kind is Kind.CHAT or not generation.wants_ids or generation.body.get("logprobs") is not None


_REFUSED: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (lambda body: bool(body.get("use_beam_search")), "beam search"),
    (_structured, "structured output: the grammar would start again"),
    (lambda body: body.get("prompt_logprobs") is not None, "prompt_logprobs"),
    (lambda body: body.get("seed") is not None, "a seed: its random numbers would start again"),
    (lambda body: bool(body.get("frequency_penalty")), "frequency_penalty: it counts the answer's own tokens"),
    (lambda body: bool(body.get("presence_penalty")), "presence_penalty: it counts the answer's own tokens"),
    (lambda body: bool(body.get("tools")) and body.get("tool_choice") != "none", "tools"),
    (lambda body: bool(body.get("vllm_xargs")) or bool(body.get("logits_processors")), "a custom logits processor"),
)


def why_impossible(generation: Generation) -> str | None:
    """What in the request rules a rewind out; None where nothing does."""
    if _echo_by_engine(generation):
        return "echo, where only the engine knows the prompt's text or its logprobs"
    for applies, why in _REFUSED:
        if applies(generation.body):
            return why
    return None


def rewind(generation: Generation, choice: int, journal: Journal) -> bytes:
    """Rewind a choice's journal, and return the body for /v1/completions that goes on from there.

    Raises ContinuationImpossible where the request's state is more than its ids.
    """
    why = why_impossible(generation)
    if why is not None:
        raise ContinuationImpossible(why)
    mark = journal.last_mark(generation.max_tokens)
    journal.rewind(mark)
    body = {key: generation.body[key] for key in _CARRIED if key in generation.body}
    body |= {
        "model": generation.model,
        "stream": True,
        "return_token_ids": True,
        # An explicit null means the rest of the context, which is what the first request had left, too.
        "max_tokens": None if generation.max_tokens is None else generation.max_tokens - mark.ids,
    }
    if journal.prompt_ids is not None:
        body |= {"prompt": [*journal.prompt_ids, *journal.ids], "add_special_tokens": False}
    elif generation.prompts and not journal.ids:
        body["prompt"] = generation.prompts[generation.prompt_number(choice)]
        body |= {key: generation.body[key] for key in ("add_special_tokens",) if key in generation.body}
    else:
        raise ContinuationImpossible("the engine never said which ids the prompt has")
    if (logprobs := asked_of_completion(generation)) is not None:
        body["logprobs"] = logprobs
    if (min_tokens := generation.body.get("min_tokens") or 0) > mark.ids:
        body["min_tokens"] = min_tokens - mark.ids
    return orjson.dumps(body)


CONTINUATION_PATH = Kind.COMPLETION.value
