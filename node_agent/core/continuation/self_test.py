"""Test which continuation methods an engine supports. Its own agent runs the test when the engine starts.

The plug-in changes private functions of vLLM, and an engine without it ignores the arguments and responds 200. So the
test checks results: it requests a short answer with all that a reprompt would corrupt (a seed, both penalties, a
grammar), and then its second half from its first. Rules:

* a complete answer that is repeated proves nothing, because one without the argument would be the same. So the test
  passes ids that are not the engine's own: the first half of the answer to *another* seed. They must be repeated;
* what is generated after them must be the same, whether the continuation starts at the first of them or later.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.continuation.requests import FORCED_IDS, RESUME_IDS

PROBE_TOKENS = 12
_CUTS = (4, 9)
_SEED_SETS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
"""Seeds of each attempt. On a GPU the shape of a batch may change a draw that was nearly even; the method is not to
blame."""

_ARGUMENTS = {ContinuationMethod.RESUME: RESUME_IDS, ContinuationMethod.FORCED_DECODING: FORCED_IDS}

_WRONG_LENGTH = f"its answer does not have the {PROBE_TOKENS} requested tokens"
_SEED_IGNORED = "its answers do not depend on the seed"
_IDS_IGNORED = "it ignores the ids that it is given"
_CONCLUSIVE = (_WRONG_LENGTH, _SEED_IGNORED, _IDS_IGNORED)
"""Results that a second attempt would not change."""

ProbeSteps = Generator[dict[str, Any], Sequence[int], "str | None"]
"""Yields bodies for /v1/completions, is sent the ids of each answer, and returns the reason for a failure or None."""


def _probe_request(model: str, seed: int) -> dict[str, Any]:
    """Build a request whose answer depends on all state. Any model can answer it, because of the grammar."""
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


def probe_steps(model: str, method: ContinuationMethod) -> ProbeSteps:
    """Test one method. Returns None where it passed."""
    failure = None
    for seeds in _SEED_SETS:
        failure = yield from _attempt(model, method, seeds)
        if failure is None or failure in _CONCLUSIVE:
            break
    return failure


def _attempt(model: str, method: ContinuationMethod, seeds: Sequence[int]) -> ProbeSteps:
    first, second = _CUTS
    argument = _ARGUMENTS[method]

    def after(ids: Sequence[int]) -> dict[str, Any]:
        return {**_probe_request(model, seeds[0]), "vllm_xargs": {argument: list(ids)}}

    own = yield _probe_request(model, seeds[0])
    if len(own) != PROBE_TOKENS:
        return _WRONG_LENGTH
    for seed in seeds[1:]:
        other = yield _probe_request(model, seed)
        if list(other[:first]) != list(own[:first]):
            break
    else:
        return _SEED_IGNORED
    forced = yield after(other[:first])
    if list(forced[:first]) != list(other[:first]):
        return _IDS_IGNORED
    forced_later = yield after(forced[:second])
    if list(forced_later) != list(forced):
        return "after given ids it does not continue the same way twice"
    for cut in _CUTS:
        repeated = yield after(own[:cut])
        if list(repeated) != list(own):
            return f"after {cut} ids of its own answer it continues with another"
    return None
