"""Chaos's own rules: every kind gets its turn, the promise's terms are kept to, equal seeds ask equal questions."""

from __future__ import annotations

import asyncio
import itertools
from random import Random
from typing import Any

import pytest

from local.chaos.event_notes import EventNotes
from local.chaos.questions import Question, draw, known_answer
from local.chaos.strikes import KINDS, Kind, Losses, deck
from synkti_client import httpx


def test_no_kind_is_rare() -> None:
    drawn = list(itertools.islice(deck(Random(1), KINDS), 3 * len(KINDS)))
    assert {drawn.count(kind) for kind in KINDS} == {3}


def test_equal_seeds_ask_equal_questions_whose_answers_are_known() -> None:
    one, other = ([draw(random, (20, 60)) for _ in range(40)] for random in (Random(3), Random(3)))
    assert one == other
    assert {q.through for q in one} == {"client", "gateway"}
    assert any(q.choices > 1 for q in one)
    assert {q.route for q in one} == {"chat", "plain", "responses", "messages"}
    for question in one:
        right = known_answer(question)
        assert right.ids
        assert not question.echo or right.text.startswith(question.text)


def test_where_the_engine_is_real_every_kind_of_state_is_asked_for() -> None:
    random = Random(5)
    drawn = [draw(random, (600, 600), texts=3, choices=1, states=4) for _ in range(200)]
    assert {question.state for question in drawn} == {"", "seed", "penalties", "grammar", "all"}
    options = next(question for question in drawn if question.state == "all").options("m")
    assert (options["seed"], options["frequency_penalty"]) == (3, 0.2)
    assert "regex" in options["extra_body"]["structured_outputs"]
    assert options["extra_body"]["ignore_eos"] is True
    assert len({question.key[-1] for question in drawn}) == 5
    assert {question.state for question in drawn if question.speaks_in_events} == {""}
    assert {draw(random, (20, 20)).state for _ in range(50)} == {""}


def _told(*events: dict[str, Any]) -> EventNotes:
    notes = EventNotes(Question("responses", "x", 20, "client"))
    for event in events:
        notes.take(event)
    return notes


BEGUN = {"type": "response.output_text.delta", "delta": "ab", "sequence_number": 0}
MORE = {"type": "response.output_text.delta", "delta": "c", "sequence_number": 1}
PARTS = [{"content": [{"text": "abc"}]}]
END = {"type": "response.completed", "response": {"status": "completed", "output": PARTS}, "sequence_number": 2}


def test_events_that_agree_are_an_answer() -> None:
    notes = _told(BEGUN, MORE, END)
    assert (notes.odd(), notes.answers()[0].text, notes.finish_reasons) == (None, "abc", ["completed"])


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((BEGUN, MORE), "0 ends"),
        ((BEGUN, MORE, END, END), "2 ends"),
        ((BEGUN, {**MORE, "sequence_number": 0}, END), "numbered"),
        ((BEGUN, {**MORE, "delta": "x"}, END), "whole response"),
    ],
)
def test_events_that_do_not_agree_are_told(events: tuple[dict[str, Any], ...], why: str) -> None:
    assert why in str(_told(*events).odd())


def test_an_error_among_events_is_one() -> None:
    with pytest.raises(httpx.ReadError, match="handoff"):
        _told(BEGUN, {"type": "error", "error": {"code": "handoff"}})


@pytest.mark.parametrize(("victims", "waits"), [([1, 1], False), ([2], False), ([1, 2], True), ([1, 1, 1], True)])
def test_of_entry_and_keepers_no_more_are_lost_at_once_than_two(victims: list[int], waits: bool) -> None:
    now = 0.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    async def story() -> None:
        losses = Losses(lambda: now)
        for number in victims:
            await losses.room_for(Kind("k", strike, number, sudden=True))
        await losses.room_for(Kind("announced", strike))

    async def strike(*_: object) -> None:
        raise AssertionError("nobody strikes here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("local.chaos.strikes.asyncio.sleep", sleep)
        asyncio.run(story())
    assert bool(slept) == waits
    assert sum(slept) <= Losses.NOTICED_WITHIN_S
