"""Every row of docs/continuation.md on a real vLLM: cut, continued, and compared with the uninterrupted answer.

A row whose method is not reprompt also shows that a reprompt fails on it; else it would prove nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from checks.continuation_table import RESULTS
from node_agent.contract.errors import ContinuationImpossible
from node_agent.core.continuation import requests
from node_agent.core.continuation.method import ContinuationMethod, choose_method, reprompt_obstacle
from node_agent.core.failure.loss import LossReason
from node_agent.core.openai.generation_request import GenerationRequest, read_generation
from node_agent.core.streams.chunk_stream import ChunkStream
from node_agent.core.streams.stream_machine import EngineRequest
from tests.contract.continuation_runner import (
    TOKENS,
    VARIANTS,
    ContinuationRunner,
    CutPoint,
    choice_outputs,
    chunks,
    engine_chunks,
    generation_of,
    is_prefix,
    outputs_of,
    send,
)
from tests.contract.rows import CONTINUOUS, EXACT, ROWS, Row
from tests.contract.thinking_model import BIASED, TAG_IDS
from tests.engines import Engine

pytestmark = pytest.mark.vllm
STATEFUL = (
    "seed", "frequency_penalty", "presence_penalty", "bad_words", "response_format", "structured_outputs",
    "vllm_xargs",
)  # fmt: skip
"""Fields that a reprompt omits, because it cannot honor them. Here it gets all of them, and its answer is wrong."""

REWINDS = {
    (True, False): "is the way",
    (False, True): "gives another answer",
    (False, False): "may be lost, and is tried again",
}
TOO = "is exact, too"
_SEEDS = range(1, 200)
_TRIES = 5
BAD_WORD = 5  # characters
STOP_STRING = 8  # characters
SOON = 300  # tokens
FEWEST_CUTS = 3
IN_EACH_RUN = {"greedy", "logprobs", "seed", "json-schema", "n", "echo", "tool-required"}
"""Rows in `make test`: one for each kind of state that an engine loses. `make test-all` has all of them."""


_found: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module", autouse=True)
def results_file() -> Iterator[None]:
    """Write the results for the table in docs/continuation.md. Rows that were not run keep their last result."""
    yield
    RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = {**before, **_found}
    RESULTS.write_text(json.dumps({row.name: found[row.name] for row in ROWS if row.name in found}, indent=1))


def rows(*, thinks: bool) -> Any:
    long = pytest.mark.long
    return [
        pytest.param(row, id=row.name, marks=() if thinks or row.name in IN_EACH_RUN else long)
        for row in ROWS
        if row.thinks is thinks
    ]


def with_answer(engine: Engine, row: Row) -> tuple[GenerationRequest, bytes]:
    """Return a request whose answer has the row's features, and that answer. If required, a reprompt fails on it."""
    for generation in candidates(engine, row):
        runner = ContinuationRunner(engine, generation)
        raw = runner.whole()
        is_example = features_of(raw) >= row.needs and len(cut_positions(runner.events)) >= FEWEST_CUTS
        if is_example and (not excludes_reprompt(row) or reprompt_fails(engine, generation, raw, runner.events)):
            return generation, raw
    if row.needs:
        pytest.skip("the model that was trained on this machine has no answer with the features of this row")
    raise AssertionError("no prompt has such an answer")


def excludes_reprompt(row: Row) -> bool:
    return row.way is not ContinuationMethod.REPROMPT and row.outcome == EXACT and not row.rewinds


def candidates(engine: Engine, row: Row) -> Iterator[GenerationRequest]:
    """Yield requests of the row. The model is trained where it runs, so that its answers differ between machines."""
    if row.needs:
        yield from (generation_of(row, seed=seed, logit_bias=BIASED[row.name]) for seed in _SEEDS)
    elif row.forbids:
        yield from with_bad_words(engine, row)
    elif row.stops:
        yield from with_stop_string(engine, row)
    else:
        generations = (generation_of(row, variant=variant) for variant in VARIANTS)
        yield from (one for one in generations if one.max_tokens is not None or ends_soon(engine, one))


def with_bad_words(engine: Engine, row: Row) -> Iterator[GenerationRequest]:
    """Yield requests that forbid a word of the unrestricted answer."""
    for variant in VARIANTS:
        free = choice_outputs(ContinuationRunner(engine, generation_of(row, variant=variant)).whole())[0].text
        for at in range(len(free) - BAD_WORD):
            generation = generation_of(row, variant=variant, bad_words=[free[at : at + BAD_WORD].strip()])
            if choice_outputs(ContinuationRunner(engine, generation).whole())[0].text != free:
                yield generation


def with_stop_string(engine: Engine, row: Row) -> Iterator[GenerationRequest]:
    """Yield requests with a stop string from two thirds of the unrestricted answer."""
    for variant in VARIANTS:
        free = choice_outputs(ContinuationRunner(engine, generation_of(row, variant=variant)).whole())[0].text
        at = len(free) * 2 // 3
        yield generation_of(row, variant=variant, stop=[free[at : at + STOP_STRING]])


def ends_soon(engine: Engine, generation: GenerationRequest) -> bool:
    limited = read_generation(generation.route, orjson.dumps({**generation.body, "max_tokens": SOON}))
    return choice_outputs(ContinuationRunner(engine, limited).whole())[0].reasons == ["stop"]


def features_of(raw: bytes) -> set[str]:
    """Return the features of an answer; none if its parsed form depends on how vLLM joined its tokens.

    The latter holds, with or without a cut, for a misplaced tag, and for half a character before a tag.
    """
    one = choice_outputs(raw)[0]
    if one.ids.count(TAG_IDS["<think>"]) > 1 or "\ufffd" in one.reasoning:
        return set()
    found = {"calls"} if len(one.calls) > 1 else set()
    found |= {"reasoning"} if len(one.reasoning) > 8 else set()
    found |= {"content"} if len(one.text) > 8 else set()
    return found | ({"start-tag"} if one.ids[:1] == [TAG_IDS["<think>"]] else set())


def cut_positions(events: int) -> list[int]:
    """Return cut positions at the beginning, in the middle, and right before the end."""
    return sorted({2, 5, events // 2, events - 3, events - 2} & set(range(1, events)))


def check_row(engine: Engine, row: Row) -> None:
    generation, raw = with_answer(engine, row)
    whole = ContinuationRunner(engine, generation)
    whole.whole()
    right = outputs_of(raw)
    if generation.body.get("echo"):
        assert outputs_of(whole.direct()) == right, "the assembled answer differs from the engine's"
    has_state = reprompt_obstacle(generation, only_text=True) is not None
    methods = (
        [ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING]
        if has_state
        else [row.way, *([ContinuationMethod.REPROMPT] if row.rewinds else [])]
    )
    compared = dict.fromkeys(methods, 0)
    cuts = cut_positions(whole.events)
    for way in methods:
        for cut in cuts if way is not ContinuationMethod.FORCED_DECODING else cuts[1::2]:
            compared[way] += 1
            received, taken = cut_and_continue(engine, generation, raw if row.outcome == EXACT else b"", cut, way)
            assert set(taken) <= {way.value}
            if row.outcome == CONTINUOUS:
                assert choice_outputs(received)[0].reasons == ["length"]
                assert len(choice_outputs(received)[0].ids) == TOKENS or usage(received)["completion_tokens"] == TOKENS
            else:
                assert outputs_of(received) == right, f"{way.value}, cut after {cut} of {whole.events} events"
    chosen = choose_method(generation, [way.value for way in ContinuationMethod], only_text=not row.thinks)
    assert chosen.method is row.way
    _found[row.name] = {
        "what": row.what,
        "way": row.way.value,
        "outcome": row.outcome,
        "cuts": {way.value: number for way, number in compared.items()},
        "rewind": TOO if row.rewinds else REWINDS[row.way is ContinuationMethod.REPROMPT, excludes_reprompt(row)],
    }


def cut_and_continue(
    engine: Engine, generation: GenerationRequest, whole: bytes, cut: int, way: ContinuationMethod
) -> tuple[bytes, list[str]]:
    """Return what the client received, and the methods used. whole: the expected answer; empty accepts any.

    On a busy machine vLLM joins tokens, its reasoning parser then lets a tag through even without a cut, and a token
    sampled at the edge of two may be the other in a batch of another shape. If the part before the cut is therefore
    not a prefix of the whole answer, the request is repeated.
    """
    for _ in range(_TRIES):
        runner = ContinuationRunner(engine, generation)
        try:
            received = runner.cut(
                CutPoint(cut, entry=cut % 2 == 0, with_text=way is ContinuationMethod.REPROMPT), supported=(way.value,)
            )
        except (AssertionError, ContinuationImpossible):
            if is_prefix(runner.before_cut, whole):
                raise
        else:
            if is_prefix(runner.before_cut, whole):
                return received, runner.methods
    raise AssertionError(f"no part before the cut was a prefix of the whole answer in {_TRIES} tries")


def usage(raw: bytes) -> dict[str, int]:
    (reported,) = [chunk["usage"] for chunk in chunks(raw) if "usage" in chunk]
    return dict(reported)


def reprompt_fails(engine: Engine, generation: GenerationRequest, raw: bytes, events: int) -> bool:
    """Return True if a plain reprompt continues with a different answer than `raw` after at least one cut."""
    right = outputs_of(raw)
    if reprompt_obstacle(generation, only_text=True) is None:
        cuts = (CutPoint(cut, with_text=True) for cut in range(2, events))
        return any(outputs_of(ContinuationRunner(engine, generation).cut(cut, supported=())) != right for cut in cuts)
    text, ids = right[0][0], right[0][3]
    for cut in range(2, events):
        machine = ChunkStream(generation, "s")
        first = engine_chunks(engine, machine)
        for event in itertools.islice(first, cut):
            machine.feed(event)
        machine.on_engine_end(LossReason.RESET)
        journal = machine.histories[0]
        if not journal.ids:
            continue
        body = orjson.loads(requests.reprompt_body(generation, 0, journal))
        body |= {name: generation.body[name] for name in STATEFUL if name in generation.body}
        known = list(journal.ids)
        behind = EngineRequest(requests.REPROMPT_PATH, orjson.dumps(body))
        rest = choice_outputs(b"".join(send(engine, behind)))[0]
        if (ids and known + rest.ids != ids) or not text.endswith(rest.text):
            return True
    return False


@pytest.mark.parametrize("row", rows(thinks=False))
@pytest.mark.parametrize("plugged", ["plain"], indirect=True)
def test_a_cut_stream_of_a_row_continues_as_the_table_says(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)


@pytest.mark.parametrize("row", rows(thinks=True))
@pytest.mark.parametrize("plugged", [pytest.param("thinks", marks=pytest.mark.long)], indirect=True)
def test_a_cut_stream_of_a_row_with_reasoning_continues_as_the_table_says(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)
