"""The engine's self-test: passed by an engine that goes on, and by nothing that only looks like one."""

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
    """A model whose next id depends on its seed and on all ids before, as its random state and its penalties do."""
    told = list(ids)
    while len(told) < self_test.PROBE_TOKENS:
        state = (seed, *told[len(ids) if forgets else 0 :])
        told.append(random.Random(str(state)).randrange(50))
    return told


def able(body: dict[str, Any]) -> Sequence[int]:
    extra = body.get("vllm_xargs") or {}
    return generated(body["seed"], extra.get(RESUME_IDS) or extra.get(FORCED_IDS) or [])


def ignorant(body: dict[str, Any]) -> Sequence[int]:
    """Without the plug-in: the argument is ignored, and the answer is 200 and right."""
    return generated(body["seed"], [])


def forgetful(body: dict[str, Any]) -> Sequence[int]:
    """As a rewind: its random numbers and penalties start again behind the ids."""
    extra = body.get("vllm_xargs") or {}
    return generated(body["seed"], extra.get(RESUME_IDS) or [], forgets=True)


def flattering(body: dict[str, Any]) -> Sequence[int]:
    """It repeats what it is given, and then goes on with its own answer from the beginning."""
    ids = (body.get("vllm_xargs") or {}).get(RESUME_IDS) or []
    own = generated(body["seed"], [])
    if own[: len(ids)] == ids:
        return own
    return [*ids, *own][: self_test.PROBE_TOKENS]


def seedless(body: dict[str, Any]) -> Sequence[int]:
    extra = body.get("vllm_xargs") or {}
    return generated(1, extra.get(RESUME_IDS) or [])


def untrue(body: dict[str, Any]) -> Sequence[int]:
    """It goes on behind all ids but its own."""
    ids = able({**body, "vllm_xargs": {}})
    given = (body.get("vllm_xargs") or {}).get(RESUME_IDS) or []
    return [*given, *[ids[0]] * 50][: self_test.PROBE_TOKENS] if given == ids[: len(given)] else able(body)


def short(body: dict[str, Any]) -> Sequence[int]:
    return able(body)[:-1]


def verdict(engine: Engine, way: ContinuationMethod = ContinuationMethod.RESUME) -> tuple[str | None, int]:
    """Why it does not pass, and how much it was asked."""
    steps, asked = self_test.probe_steps("m", way), 0
    body = next(steps)
    while True:
        asked += 1
        try:
            body = steps.send(engine(body))
        except StopIteration as done:
            return done.value, asked


@pytest.mark.parametrize("way", [ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING])
def test_an_engine_that_goes_on_passes_in_a_handful_of_questions(way: ContinuationMethod) -> None:
    why, asked = verdict(able, way)
    assert why is None
    assert asked <= 6


def test_a_draw_that_was_nearly_even_does_not_condemn_an_engine() -> None:
    asked = 0

    def shaky(body: dict[str, Any]) -> Sequence[int]:
        nonlocal asked
        asked += 1
        return able(body) if asked != 4 else [*able(body)[:-1], 99]

    why, questions = verdict(shaky)
    assert why is None
    assert questions <= 10


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        (ignorant, "ignores the ids"),
        (forgetful, "does not continue the same way twice"),
        (flattering, "does not continue the same way twice"),
        (seedless, "do not depend on the seed"),
        (untrue, "continues with another"),
        (short, "does not have the 12"),
    ],
)
def test_no_other_passes(engine: Engine, why: str) -> None:
    said, asked = verdict(engine)
    assert said is not None
    assert why in said
    assert asked <= 18
