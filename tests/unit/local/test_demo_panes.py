"""How `make run` shows streams: columns, wrapped as they arrive, with the seam where it fell."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from local.continuation_timer import Continuation
from local.demo.acts import seam_note
from local.demo.panes import LEG_STYLES, Pane, length, rows, wrap
from local.demo.screen import Screen

WORDS = st.lists(st.text("abc", min_size=1, max_size=9), max_size=40).map(" ".join)


def text_of(pane: Pane) -> str:
    return "\n".join("".join(part for part, _ in line) for line in pane.lines)


@given(WORDS, st.integers(9, 30), st.integers(1, 12))
def test_a_text_in_any_pieces_is_wrapped_like_the_whole_and_loses_no_word(text: str, width: int, size: int) -> None:
    pane = Pane(width)
    for at in range(0, len(text), size):
        pane.write(text[at : at + size])
    pane.close()
    lines = text_of(pane).split("\n")
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width for line in lines)
    assert lines == (wrap(text, width) or [""])


def test_a_seam_is_where_the_text_stood_and_its_note_below_the_line() -> None:
    pane = Pane(20)
    pane.write("the night tr")
    pane.seam("a → b: lost, pause 48 ms")
    pane.write("ain left the harbour")
    pane.close()
    assert text_of(pane) == "the night tr»ain\n└ a → b: lost, pause\n48 ms\nleft the harbour"
    first = pane.lines[0]
    assert first[0] == ("the night tr", LEG_STYLES[0])
    assert first[2] == ("ain", LEG_STYLES[1]), "another node wrote this part"


def test_a_cut_text_ends_with_its_mark() -> None:
    pane = Pane(40)
    pane.write("the night tr")
    pane.cut("CUT after 5 tokens: peer closed connection")
    pane.close()
    assert text_of(pane).split("\n")[0] == "the night tr✂"
    assert "peer closed" in text_of(pane)


def test_rows_wait_for_both_columns_until_one_is_over_or_far_behind() -> None:
    left, right = Pane(10), Pane(10)
    left.write("one\ntwo\n")
    assert list(rows(left, right)) == [], "the right column may follow"
    right.write("uno\n")
    assert [(length(a), length(b)) for a, b in rows(left, right)] == [(3, 3)]
    right.close()
    assert [(length(a), length(b)) for a, b in rows(left, right)] == [(3, 0)]
    left, right = Pane(10), Pane(10)
    left.write("a\nb\nc\nd\ne\n")
    assert len(list(rows(left, right))) == 2, "a stalled column holds the other back by three lines only"


@pytest.mark.parametrize(
    ("reason", "way"), [("handoff", "notice"), ("entry-lost", "resumed"), ("eof", "lost"), ("engine-killed", "lost")]
)
def test_a_seam_has_both_nodes_the_way_and_the_pause(reason: str, way: str) -> None:
    note = seam_note(Continuation("i-0aaaaaaaaaaaaaaaa", reason, 48.4, "i-0bbbbbbbbbbbbbbbb"))
    assert note == f"i-0aaaaaaa → i-0bbbbbbb: {way}, pause 48 ms"


@pytest.mark.parametrize(("width", "is_wide"), [(120, True), (80, False)])
def test_two_streams_are_side_by_side_where_there_is_room(width: int, is_wide: bool) -> None:
    output = io.StringIO()
    panes = Screen(Console(file=output, width=width)).panes("ours", "theirs")
    for pane, text in zip(panes.panes, ("alpha", "beta"), strict=True):
        pane.write(text)
    panes.close()
    lines = output.getvalue().splitlines()
    assert any("alpha" in line and "beta" in line for line in lines) is is_wide
    assert "beta" in output.getvalue()
    assert "\x1b" not in output.getvalue(), "plain where it is no terminal"


def test_no_color_is_honoured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    output = io.StringIO()
    panes = Screen(Console(file=output, width=80, force_terminal=True)).panes("ours")
    panes.panes[0].write("alpha")
    panes.panes[0].seam("a → b: lost, pause 1 ms")
    panes.close()
    assert "\x1b[3" not in output.getvalue()
    assert "\x1b[4" not in output.getvalue()
