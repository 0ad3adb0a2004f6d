"""Streams are read in any pieces, and compared with an undisturbed one."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.core.first_day.answers import MAX_TOKENS, MIN_TOKENS, Answer, AnswerReader, judge_answers, length_for
from cli.core.first_day.report import Outcome


def event(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason}
    return b"id: s/1\ndata: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


STREAM = (
    event("one\n")
    + b": synkti continued on i-0b after eof on i-0a, pause 287.4 ms\n\n"
    + b": synkti continued on i-0c after silence on i-0b, pause 12 ms\r\n\r\n"
    + event("zwölf", "length")
    + b"data: [DONE]\n\n"
)


def read(*pieces: bytes) -> Answer:
    reader = AnswerReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.answer("i-0a", 2.0, 64)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_a_stream_is_read_in_any_pieces(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    answer = read(*(STREAM[a:b] for a, b in itertools.pairwise(places)))
    assert answer == Answer("one\nzwölf", "i-0a", "length", ("eof", "silence"), 287.4, None, 2.0, 64)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (event("one"), "without a finish_reason"),
        (event("one") + b"data: [DONE]\n\n", "without a finish_reason"),
        (b'data: {"error": {"message": "three engines were lost"}}\n\n', "three engines were lost"),
        (b'data: {"error": "text"}\n\n', "no completion"),
        (b"data: {\n\n", "no completion"),
        (b"data: []\n\n", "no completion"),
        (b'data: {"choices": [{"text": null}]}\n\n', "no completion"),
    ],
)
def test_a_stream_that_is_not_whole_has_an_error(stream: bytes, error: str) -> None:
    found = read(stream).error
    assert found is not None
    assert error in found


@given(st.binary())
def test_no_bytes_raise(data: bytes) -> None:
    assert read(data, b"\n").took_s == 2.0


def test_an_event_without_an_end_is_dropped() -> None:
    reader = AnswerReader()
    for _ in range(40):
        reader.feed(b"data: " + b"x" * 65_536)
    assert reader.answer("", 0.0, 1).error == "an event without an end"


@pytest.mark.parametrize(
    ("took_s", "context", "tokens"),
    [
        (2.0, None, 4800),  # 32 tokens/s for 150 s
        (2.0, 4096, 4096 - 64),
        (0.0, None, MAX_TOKENS),
        (1e9, None, MIN_TOKENS),
        (2.0, 10, MIN_TOKENS),
    ],
)
def test_a_stream_is_longer_than_a_drain(took_s: float, context: int | None, tokens: int) -> None:
    assert length_for(Answer("x", took_s=took_s), context) == tokens


WHOLE = Answer("one two three", "i-0a", "length")
MOVED = replace(WHOLE, continued=("handoff",), pause_ms=310.0)


@pytest.mark.parametrize(
    ("answers", "outcome", "summary"),
    [
        ([WHOLE, MOVED], Outcome.OK, "1 of 2 streams moved, none lost or changed a character"),
        ([WHOLE], Outcome.OK, "none had to move"),
        ([WHOLE, replace(MOVED, text="one two tree")], Outcome.FAILED, "at character 9"),
        ([WHOLE, replace(MOVED, text="one two")], Outcome.FAILED, "at character 7"),
        ([replace(WHOLE, text="1 2 3"), replace(MOVED, text="one, two")], Outcome.OK, "could not be compared"),
        ([WHOLE, replace(MOVED, error="ReadError: reset")], Outcome.FAILED, "1 of 2 streams broke: ReadError"),
        ([], Outcome.FAILED, "no stream was open"),
    ],
)
def test_every_stream_has_to_be_whole(answers: list[Answer], outcome: Outcome, summary: str) -> None:
    result = judge_answers(WHOLE, answers)
    assert result.outcome is outcome
    assert summary in result.summary
    assert result.facts["streams"] == len(answers)
