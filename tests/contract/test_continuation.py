"""Every row of docs/continuation.md, on a real vLLM: cut, gone on with, and compared with the uninterrupted answer.

A row that is not rewound also shows that a rewind fails on it; else it would prove nothing.
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
from node_agent.core.streams.state import EngineRequest
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
"""What a rewind leaves out because it would be wrong there: here it gets all of it, and is wrong."""

REWINDS = {
    (True, False): "is the way",
    (False, True): "tells another answer",
    (False, False): "may be lost, and is tried again",
}
TOO = "is exact, too"
_SEEDS = range(1, 200)
_TRIES = 5
BAD_WORD = 5  # characters
STOP_STRING = 8  # characters
SOON = 300  # tokens
FEWEST_CUTS = 3


_found: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module", autouse=True)
def written() -> Iterator[None]:
    """What was found, for the table in docs/continuation.md; of rows that were not run, what was found last."""
    yield
    RESULTS.parent.mkdir(exist_ok=True)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = {**before, **_found}
    RESULTS.write_text(json.dumps({row.name: found[row.name] for row in ROWS if row.name in found}, indent=1))


def rows(*, thinks: bool) -> Any:
    return [pytest.param(row, id=row.name) for row in ROWS if row.thinks is thinks]


def with_answer(engine: Engine, row: Row) -> tuple[GenerationRequest, bytes]:
    """The row's request, and its whole answer: one that shows the row, and on which a rewind fails where it is to."""
    for generation in candidates(engine, row):
        player = ContinuationRunner(engine, generation)
        raw = player.whole()
        is_example = shows(raw) >= row.needs and len(places(player.events)) >= FEWEST_CUTS
        if is_example and (not proves(row) or rewind_fails(engine, generation, raw, player.events)):
            return generation, raw
    if row.needs:
        pytest.skip("the model that was taught on this machine has no answer that shows this row")
    raise AssertionError("no question has such an answer")


def proves(row: Row) -> bool:
    return row.way is not ContinuationMethod.REPROMPT and row.outcome == EXACT and not row.rewinds


def candidates(engine: Engine, row: Row) -> Iterator[GenerationRequest]:
    """The model is taught where it runs, and every machine's says something else."""
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
    """Forbidden are words that are said without them."""
    for variant in VARIANTS:
        free = choice_outputs(ContinuationRunner(engine, generation_of(row, variant=variant)).whole())[0].text
        for at in range(len(free) - BAD_WORD):
            generation = generation_of(row, variant=variant, bad_words=[free[at : at + BAD_WORD].strip()])
            if choice_outputs(ContinuationRunner(engine, generation).whole())[0].text != free:
                yield generation


def with_stop_string(engine: Engine, row: Row) -> Iterator[GenerationRequest]:
    """It stops at what it says after two thirds of its answer."""
    for variant in VARIANTS:
        free = choice_outputs(ContinuationRunner(engine, generation_of(row, variant=variant)).whole())[0].text
        at = len(free) * 2 // 3
        yield generation_of(row, variant=variant, stop=[free[at : at + STOP_STRING]])


def ends_soon(engine: Engine, generation: GenerationRequest) -> bool:
    limited = read_generation(generation.route, orjson.dumps({**generation.body, "max_tokens": SOON}))
    return choice_outputs(ContinuationRunner(engine, limited).whole())[0].reasons == ["stop"]


def shows(raw: bytes) -> set[str]:
    """What an answer has. None where its parser's words depend on how vLLM joined its tokens on their way.

    That is so, with a cut or without, of a tag in the wrong place and of half a character in front of one.
    """
    one = choice_outputs(raw)[0]
    if one.ids.count(TAG_IDS["<think>"]) > 1 or "\ufffd" in one.reasoning:
        return set()
    found = {"calls"} if len(one.calls) > 1 else set()
    found |= {"reasoning"} if len(one.reasoning) > 8 else set()
    found |= {"content"} if len(one.text) > 8 else set()
    return found | ({"start-tag"} if one.ids[:1] == [TAG_IDS["<think>"]] else set())


def places(events: int) -> list[int]:
    """Cuts at the beginning, across the middle, and right before the end."""
    return sorted({2, 5, events // 2, events - 3, events - 2} & set(range(1, events)))


def check_row(engine: Engine, row: Row) -> None:
    generation, raw = with_answer(engine, row)
    whole = ContinuationRunner(engine, generation)
    whole.whole()
    right = outputs_of(raw)
    if generation.body.get("echo"):
        assert outputs_of(whole.alone()) == right, "what is put together here is not what the engine says"
    has_state = reprompt_obstacle(generation, only_text=True) is not None
    ways = (
        [ContinuationMethod.RESUME, ContinuationMethod.FORCED_DECODING]
        if has_state
        else [row.way, *([ContinuationMethod.REPROMPT] if row.rewinds else [])]
    )
    compared = dict.fromkeys(ways, 0)
    cuts = places(whole.events)
    for way in ways:
        for cut in cuts if way is not ContinuationMethod.FORCED_DECODING else cuts[1::2]:
            compared[way] += 1
            heard, taken = went_on(engine, generation, raw if row.outcome == EXACT else b"", cut, way)
            assert set(taken) <= {way.value}
            if row.outcome == CONTINUOUS:
                assert choice_outputs(heard)[0].reasons == ["length"]
                assert len(choice_outputs(heard)[0].ids) == TOKENS or usage(heard)["completion_tokens"] == TOKENS
            else:
                assert outputs_of(heard) == right, f"{way.value}, cut after {cut} of {whole.events} events"
    chosen = choose_method(generation, [way.value for way in ContinuationMethod], only_text=not row.thinks)
    assert chosen.method is row.way
    _found[row.name] = {
        "what": row.what,
        "way": row.way.value,
        "outcome": row.outcome,
        "cuts": {way.value: number for way, number in compared.items()},
        "rewind": TOO if row.rewinds else REWINDS[row.way is ContinuationMethod.REPROMPT, proves(row)],
    }


def went_on(
    engine: Engine, generation: GenerationRequest, whole: bytes, cut: int, way: ContinuationMethod
) -> tuple[bytes, list[str]]:
    """What was heard, and the ways that were taken. whole: the answer that it has to be.

    On a busy machine vLLM joins tokens on their way, and its parser of reasoning then lets its tag through, without any
    cut; and what was sampled at the edge of two tokens may be the other one in a batch of another shape. Such a
    beginning is not that of the whole answer, whatever goes on with it: it is asked for again.
    """
    for _ in range(_TRIES):
        player = ContinuationRunner(engine, generation)
        try:
            heard = player.cut(
                CutPoint(cut, entry=cut % 2 == 0, spoken=way is ContinuationMethod.REPROMPT), able=(way.value,)
            )
        except (AssertionError, ContinuationImpossible):
            if is_prefix(player.before_cut, whole):
                raise
        else:
            if is_prefix(player.before_cut, whole):
                return heard, player.ways
    raise AssertionError(f"no beginning in {_TRIES} tries is that of the whole answer")


def usage(raw: bytes) -> dict[str, int]:
    (told,) = [chunk["usage"] for chunk in chunks(raw) if "usage" in chunk]
    return dict(told)


def rewind_fails(engine: Engine, generation: GenerationRequest, raw: bytes, events: int) -> bool:
    """Whether a plain rewind goes on with another answer than the right one, raw, at one cut at least."""
    right = outputs_of(raw)
    if reprompt_obstacle(generation, only_text=True) is None:
        cuts = (CutPoint(cut, spoken=True) for cut in range(2, events))
        return any(outputs_of(ContinuationRunner(engine, generation).cut(cut, able=())) != right for cut in cuts)
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
def test_a_row_goes_on(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)


@pytest.mark.parametrize("row", rows(thinks=True))
@pytest.mark.parametrize("plugged", ["thinks"], indirect=True)
def test_a_row_with_reasoning_goes_on(plugged: Engine, row: Row) -> None:
    check_row(plugged, row)
