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

from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.continuation.requests import FORCED_IDS, RESUME_IDS

PROBE_TOKENS = 12
_CUTS = (4, 9)
_SEED_SETS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
"""Seeds of each. On a GPU the shape of a batch may move a draw that was nearly even: that is no fault of the way's."""

_ARGUMENTS = {ContinuationMethod.RESUME: RESUME_IDS, ContinuationMethod.FORCED_DECODING: FORCED_IDS}

_WRONG_LENGTH = f"its answer does not have the {PROBE_TOKENS} tokens that were asked for"
_SEED_IGNORED = "its answers do not depend on the seed"
_IDS_IGNORED = "it ignores the ids that it is given"
_CONCLUSIVE = (_WRONG_LENGTH, _SEED_IGNORED, _IDS_IGNORED)
"""What a second try would not change."""

ProbeSteps = Generator[dict[str, Any], Sequence[int], "str | None"]
"""Yields bodies for /v1/completions, is sent the ids of each answer, and returns why the way is not to be used."""


def probe_request(model: str, seed: int) -> dict[str, Any]:
    """One whose answer depends on everything: any model can answer it, since the grammar makes it."""
    return {
        "model": model,
        "prompt": "self-test",
        "max_tokens": PROBE_TOKENS,
        "temperature": 1.5,
        "seed": seed,
        "frequency_penalty": 1.0,
        "presence_penalty": 0.5,
        "structured_outputs": {"regex": "([a-z]{3} ){200}"},
        "return_token_ids": True,
    }


def probe_steps(model: str, way: ContinuationMethod) -> ProbeSteps:
    """The test of one way. None is returned where it passed."""
    why = None
    for seeds in _SEED_SETS:
        why = yield from _attempt(model, way, seeds)
        if why is None or why in _CONCLUSIVE:
            break
    return why


def _attempt(model: str, way: ContinuationMethod, seeds: Sequence[int]) -> ProbeSteps:
    first, second = _CUTS
    argument = _ARGUMENTS[way]

    def behind(ids: Sequence[int]) -> dict[str, Any]:
        return {**probe_request(model, seeds[0]), "vllm_xargs": {argument: list(ids)}}

    own = yield probe_request(model, seeds[0])
    if len(own) != PROBE_TOKENS:
        return _WRONG_LENGTH
    for seed in seeds[1:]:
        other = yield probe_request(model, seed)
        if list(other[:first]) != list(own[:first]):
            break
    else:
        return _SEED_IGNORED
    led = yield behind(other[:first])
    if list(led[:first]) != list(other[:first]):
        return _IDS_IGNORED
    later = yield behind(led[:second])
    if list(later) != list(led):
        return "behind given ids it does not go on the same twice"
    for cut in _CUTS:
        again = yield behind(own[:cut])
        if list(again) != list(own):
            return f"behind {cut} ids of its own answer it goes on with another"
    return None
