"""Whether an engine can go on with an answer behind its first ids: asked of it at its start, by its own agent.

The plug-in changes private functions of vLLM's, and an engine without it ignores its arguments and answers 200. So
nothing is believed that was not seen: a short answer with all that a rewind would corrupt (a seed, both penalties, a
grammar), and then its second half from its first. Rules kept here:

* a whole answer that comes out again proves nothing, because one without the argument would be the same. So ids are
  given that are not the engine's own: the first half of the answer to *another* seed. They have to be repeated;
* what is generated behind them has to be the same, whether it began at the first of them or later.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from node_agent.core.continuation import FORCED_IDS, RESUME_IDS
from node_agent.core.ways import Way

TOKENS = 12
_CUTS = (4, 9)
_SEEDS = (1, 2, 3)
_ARGUMENTS = {Way.RESUME: RESUME_IDS, Way.FORCED: FORCED_IDS}

Steps = Generator[dict[str, Any], Sequence[int], "str | None"]
"""Yields bodies for /v1/completions, is sent the ids of each answer, and returns why the way is not to be used."""


def question(model: str, seed: int) -> dict[str, Any]:
    """One whose answer depends on everything: any model can answer it, since the grammar makes it."""
    return {
        "model": model,
        "prompt": "self-test",
        "max_tokens": TOKENS,
        "temperature": 1.5,
        "seed": seed,
        "frequency_penalty": 1.0,
        "presence_penalty": 0.5,
        "structured_outputs": {"regex": "([a-z]{3} ){200}"},
        "return_token_ids": True,
    }


def steps(model: str, way: Way) -> Steps:
    """The test of one way. None is returned where it passed."""
    argument = _ARGUMENTS[way]

    def behind(ids: Sequence[int]) -> dict[str, Any]:
        return {**question(model, 1), "vllm_xargs": {argument: list(ids)}}

    first, second = _CUTS
    own = yield question(model, _SEEDS[0])
    if len(own) != TOKENS:
        return f"an answer of {TOKENS} tokens has {len(own)}"
    for seed in _SEEDS[1:]:
        other = yield question(model, seed)
        if list(other[:first]) != list(own[:first]):
            break
    else:
        return "its answers do not depend on the seed"
    led = yield behind(other[:first])
    if list(led[:first]) != list(other[:first]):
        return "it ignores the ids that it is given"
    later = yield behind(led[:second])
    if list(later) != list(led):
        return "behind given ids it does not go on the same twice"
    for cut in _CUTS:
        again = yield behind(own[:cut])
        if list(again) != list(own):
            return f"behind {cut} ids of its own answer it goes on with another"
    return None
