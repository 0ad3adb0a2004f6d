"""Reasoning and tool calls across a loss, for repetitions in deltas of any size."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.streams.delta_tracker import DeltaTracker

Delta = dict[str, Any]


def call(index: int, name: str | None, arguments: str, number: int = 1) -> Delta:
    function: dict[str, Any] = {"arguments": arguments}
    part: dict[str, Any] = {"index": index, "function": function}
    if name is not None:
        function["name"] = name
        part |= {"id": f"call-{number}", "type": "function"}
    return {"tool_calls": [part]}


def client_view(deltas: list[Delta]) -> tuple[str, dict[int, tuple[str, str, str]]]:
    """Return a client's result: the reasoning, and each call's id, name and arguments."""
    reasoning = ""
    calls: dict[int, tuple[str, str, str]] = {}
    for delta in deltas:
        reasoning += delta.get("reasoning") or ""
        for part in delta.get("tool_calls") or ():
            number, name, arguments = calls.get(part["index"], ("", "", ""))
            function = part["function"]
            calls[part["index"]] = (
                number + part.get("id", ""), name + function.get("name", ""), arguments + function["arguments"],
            )  # fmt: skip
    return reasoning, calls


@st.composite
def repeated_answers(draw: st.DrawFn) -> tuple[list[Delta], list[Delta]]:
    """Draw one answer, sent twice in different deltas; the second time with other ids for its calls."""
    reasoning = draw(st.text("ab ", max_size=8))
    arguments = draw(st.lists(st.text("xy{}", max_size=8), max_size=3))

    def pieces(text: str) -> list[str]:
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=3)) | {0, len(text)})
        return [text[a:b] for a, b in pairwise(cuts)]

    def answer(number: int) -> list[Delta]:
        deltas: list[Delta] = [{"reasoning": piece} for piece in pieces(reasoning)]
        for index, text in enumerate(arguments):
            deltas.append(call(index, f"tool{index}", "", number))
            deltas += [call(index, None, piece) for piece in pieces(text)]
        return deltas

    return answer(1), answer(2)


@given(repeated_answers(), st.integers(0, 30))
def test_a_client_gets_all_deltas_once_wherever_the_engine_changed(
    answers: tuple[list[Delta], list[Delta]], cut: int
) -> None:
    first, second = answers
    deltas, received = DeltaTracker(), []
    for delta in first[:cut]:
        deltas.new_part(delta)
        received.append(delta)
    deltas.restart()
    received += [new for delta in second if (new := deltas.new_part(delta))]
    assert deltas.is_caught_up
    reasoning, calls = client_view(received)
    right_reasoning, right_calls = client_view(first)
    assert reasoning == right_reasoning
    assert {index: one[1:] for index, one in calls.items()} == {index: one[1:] for index, one in right_calls.items()}
    assert all(one[0] in ("call-1", "call-2") for one in calls.values())  # one id each, and never two


def restarted_tracker() -> DeltaTracker:
    deltas = DeltaTracker()
    for delta in ({"reasoning": "let me see"}, call(0, "look", '{"a": 1')):
        deltas.new_part(delta)
    deltas.restart()
    return deltas


def test_text_is_not_tracked() -> None:
    deltas = DeltaTracker()
    assert deltas.new_part({"role": "assistant", "content": "text"}) == {}
    assert deltas.new_part({"content": ""}) == {}
    assert deltas.is_empty


@pytest.mark.parametrize("delta", [{"reasoning": "hm"}, call(0, "look", "")], ids=str)
def test_reasoning_and_tool_calls_are_tracked(delta: Delta) -> None:
    deltas = DeltaTracker()
    deltas.new_part(delta)
    assert not deltas.is_empty


@pytest.mark.parametrize(
    "delta",
    [{"reasoning": "let us"}, call(0, "listen", ""), call(0, "look", '{"b"')],
    ids=["reasoning", "name", "rest"],
)
def test_a_different_delta_of_the_next_engine_is_an_error(delta: Delta) -> None:
    with pytest.raises(ValueError, match="continuation"):
        restarted_tracker().new_part(delta)


@pytest.mark.parametrize("delta", [{"reasoning": "let me"}, call(0, "look", "")], ids=["reasoning", "call"])
def test_an_engine_that_has_not_repeated_all_deltas_has_not_caught_up(delta: Delta) -> None:
    deltas = restarted_tracker()
    assert deltas.new_part(delta) == {}
    assert not deltas.is_caught_up


def test_repeated_deltas_are_dropped_and_new_ones_sent_without_a_second_id() -> None:
    deltas = restarted_tracker()
    assert deltas.new_part({"reasoning": "let me see now"}) == {"reasoning": " now"}
    assert deltas.new_part(call(0, "look", '{"a": 12', 2)) == {
        "tool_calls": [{"index": 0, "function": {"arguments": "2"}}]
    }
    assert deltas.new_part(call(1, "listen", "", 3)) == call(1, "listen", "", 3)
    assert deltas.is_caught_up
