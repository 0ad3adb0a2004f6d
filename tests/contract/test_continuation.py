"""Every row of docs/continuation.md, on a real vLLM: cut, gone on with, and compared with the uninterrupted answer.

A row that is not rewound also shows that a rewind fails on it; else it would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from local.aws import free_port
from local.engine_env import engine_command, engine_environ, ensure_engine, ensure_plugin
from local.tiny_model import ensure_model
from node_agent.core import continuation
from node_agent.core.completions import Generation
from node_agent.core.stream import EngineRequest, StreamMachine
from node_agent.core.ways import Way, why_not_rewind
from tests.contract.continued import TOKENS, Cut, Player, answers, asked, generation_of, said
from tests.contract.rows import CONTINUOUS, ROWS, Row
from tests.contract.thinking_model import BIASED, make_thinking_model
from tests.engines import MODEL, VLLM_WITHIN_S, Engine, running

pytestmark = pytest.mark.vllm
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
THINKS = ["--reasoning-parser", "deepseek_r1"]
STATEFUL = (
    "seed", "frequency_penalty", "presence_penalty", "bad_words", "response_format", "structured_outputs",
)  # fmt: skip
"""What a rewind leaves out because it would be wrong there: here it gets all of it, and is wrong."""

_SEEDS = range(1, 200)


@pytest.fixture(scope="module", params=["plain", "parsed"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """With the plug-in; `parsed`: of a model that knows tags, with parsers for them."""
    folder = tmp_path_factory.mktemp(f"engine-{request.param}")
    environment = ensure_engine(print)
    model, more = ensure_model(environment, print), list[str]()
    if request.param == "parsed":
        model, more = make_thinking_model(model, folder / "model"), THINKS
    port = free_port()
    argv = engine_command(environment, model, MODEL, "127.0.0.1", port, ensure_plugin(environment))
    with running([*argv, *TOOLS, *more], port, folder, engine_environ(), VLLM_WITHIN_S) as made:
        yield made


def rows(*, parsed: bool) -> Any:
    return [pytest.param(row, id=row.name) for row in ROWS if row.parsed is parsed]


def with_answer(engine: Engine, row: Row) -> tuple[Generation, bytes]:
    """The row's request, and its whole answer."""
    if not row.parsed:
        generation = generation_of(row)
        return generation, Player(engine, generation).whole()
    for seed in _SEEDS:
        generation = generation_of(row, seed=seed, logit_bias=BIASED[row.name])
        raw = Player(engine, generation).whole()
        if shows(raw) >= row.needs:
            return generation, raw
    raise AssertionError(f"no seed has an answer with {set(row.needs)}")


def shows(raw: bytes) -> set[str]:
    one = said(raw)[0]
    found = {"calls"} if len(one.calls) > 1 else set()
    found |= {"reasoning"} if len(one.reasoning) > 8 else set()
    found |= {"content"} if len(one.text) > 8 else set()
    return found | ({"start-tag"} if one.ids[0] == int(next(iter(BIASED["reasoning"]))) else set())


def places(events: int) -> list[int]:
    """Cuts at the beginning, across the middle, and right before the end."""
    return sorted({2, 5, events // 2, events - 3, events - 2} & set(range(1, events)))


def check_row(engine: Engine, row: Row) -> None:
    generation, raw = with_answer(engine, row)
    whole = Player(engine, generation)
    whole.whole()
    right = answers(raw)
    cuts = places(whole.events)
    ways = [Way.REWIND] if row.way is Way.REWIND else [Way.RESUME, Way.FORCED]
    for way in ways:
        for cut in cuts if way is not Way.FORCED else cuts[1::2]:
            player = Player(engine, generation)
            heard = player.cut(Cut(cut, entry=cut % 2 == 0), able=(way.value,))
            assert set(player.ways) <= {way.value}
            if row.outcome == CONTINUOUS:
                assert said(heard)[0].reasons == ["length"]
                assert len(said(heard)[0].ids) == TOKENS
            else:
                assert answers(heard) == right, f"{way.value}, cut after {cut} of {whole.events} events"
    if row.way is not Way.REWIND:
        assert rewind_fails(engine, generation, right, whole.events)


def rewind_fails(engine: Engine, generation: Generation, right: Any, events: int) -> bool:
    """Whether a plain rewind goes on with another answer than the right one, at one cut at least."""
    ids = right[0][3]
    for cut in range(2, events):
        if why_not_rewind(generation, only_text=True) is None:
            if answers(Player(engine, generation).cut(Cut(cut), able=())) != right:
                return True
            continue
        machine = StreamMachine(generation, "s")
        first = asked(engine, machine.request())
        for _ in range(cut):
            machine.feed(next(first))
        machine.lose("reset")
        journal = machine.journals[0]
        if not journal.ids:
            continue
        body = orjson.loads(continuation.rewind(generation, 0, journal))
        body |= {name: generation.body[name] for name in STATEFUL if name in generation.body}
        known = list(journal.ids)
        rest = [
            token
            for event in asked(engine, EngineRequest(continuation.REWIND_PATH, orjson.dumps(body)))
            if event != b"data: [DONE]\n\n"
            for choice in orjson.loads(event[6:])["choices"]
            for token in choice.get("token_ids") or ()
        ]
        if known + rest != ids:
            return True
    return False


@pytest.mark.parametrize("row", rows(parsed=False))
@pytest.mark.parametrize("engine", ["plain"], indirect=True)
def test_a_row_goes_on(engine: Engine, row: Row) -> None:
    check_row(engine, row)


@pytest.mark.parametrize("row", rows(parsed=True))
@pytest.mark.parametrize("engine", ["parsed"], indirect=True)
def test_a_row_with_parsers_goes_on(engine: Engine, row: Row) -> None:
    check_row(engine, row)
