"""The engine's self-test: only an engine that continues correctly passes it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from node_agent.core.continuation import self_test
from node_agent.core.continuation.method import ContinuationMethod
from node_agent.core.continuation.requests import FORCED_IDS, RESUME_IDS

Engine = Callable[[dict[str, Any]], Sequence[int]]


def generated(seed: int, ids: Sequence[int], *, forgets: bool = False) -> list[int]:
    """Generate ids that depend on the seed and on all previous ids, as random state and penalties do."""
    result = list(ids)
    while len(result) < self_test.PROBE_TOKENS:
        state = (seed, *result[len(ids) if forgets else 0 :])
        result.append(random.Random(str(state)).randrange(50))
    return result


def capable(body: dict[str, Any]) -> Sequence[int]:
    extra = body.get("vllm_xargs") or {}
    return generated(body["seed"], extra.get(RESUME_IDS) or extra.get(FORCED_IDS) or [])


def ignorant(body: dict[str, Any]) -> Sequence[int]:
    """Answer without the plug-in: the argument is ignored, and the answer is 200 and correct."""
    return generated(body["seed"], [])


def forgetful(body: dict[str, Any]) -> Sequence[int]:
    """Answer as a reprompt would: random numbers and penalties start again after the ids."""
    extra = body.get("vllm_xargs") or {}
    return generated(body["seed"], extra.get(RESUME_IDS) or [], forgets=True)


def flattering(body: dict[str, Any]) -> Sequence[int]:
    """Repeat the given ids, and then continue with its own answer from the beginning."""
    ids = (body.get("vllm_xargs") or {}).get(RESUME_IDS) or []
    own = generated(body["seed"], [])
    if own[: len(ids)] == ids:
        return own
    return [*ids, *own][: self_test.PROBE_TOKENS]


def seedless(body: dict[str, Any]) -> Sequence[int]:
    extra = body.get("vllm_xargs") or {}
    return generated(1, extra.get(RESUME_IDS) or [])


def untrue(body: dict[str, Any]) -> Sequence[int]:
    """Continue correctly after all ids except its own."""
    ids = capable({**body, "vllm_xargs": {}})
    given = (body.get("vllm_xargs") or {}).get(RESUME_IDS) or []
    return [*given, *[ids[0]] * 50][: self_test.PROBE_TOKENS] if given == ids[: len(given)] else capable(body)


def short(body: dict[str, Any]) -> Sequence[int]:
    return capable(body)[:-1]


def verdict(engine: Engine, method: ContinuationMethod = ContinuationMethod.RESUME) -> tuple[str | None, int]:
    """Return the reason for a failure, None for success, and the number of requests."""
    steps, requests = self_test.probe_steps("m", method), 0
    body = next(steps)
    while True:
        requests += 1
        try:
            body = steps.send(engine(body))
        except StopIteration as done:
            return done.value, requests


@pytest.mark.parametrize("method", [ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING])
def test_an_engine_that_continues_passes_with_a_handful_of_requests(method: ContinuationMethod) -> None:
    reason, requests = verdict(capable, method)
    assert reason is None
    assert requests <= 6


def test_a_nearly_even_draw_does_not_fail_an_engine() -> None:
    requests = 0

    def shaky(body: dict[str, Any]) -> Sequence[int]:
        nonlocal requests
        requests += 1
        return capable(body) if requests != 4 else [*capable(body)[:-1], 99]

    reason, requests_sent = verdict(shaky)
    assert reason is None
    assert requests_sent <= 10


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (ignorant, "ignores the ids"),
        (forgetful, "does not continue the same way twice"),
        (flattering, "does not continue the same way twice"),
        (seedless, "do not depend on the seed"),
        (untrue, "continues with another"),
        (short, "does not have the 12"),
    ],
)
def test_an_engine_that_does_not_continue_fails(engine: Engine, reason: str) -> None:
    failure, requests = verdict(engine)
    assert failure is not None
    assert reason in failure
    assert requests <= 18
