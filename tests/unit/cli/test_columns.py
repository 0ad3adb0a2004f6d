"""Tables in narrow terminals: whole columns are left out, and no address is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.core import key_edits, nodes, plan, streams
from cli.core.columns import columns_that_fit
from cli.terminal import Terminal

HEADERS = ("NODE", "STATE", "ZONE", "ADDRESS")
ROWS = (("i-0d3c5a1f9b7e24680", "ready", "us-east-1a", "203.0.113.118:8000"),)


@pytest.mark.parametrize(
    ("width", "kept"), [(100, [0, 1, 2, 3]), (58, [0, 1, 2, 3]), (57, [0, 1, 3]), (45, [0, 3]), (10, [0, 3])]
)
def test_columns_are_left_out_in_their_order_until_the_rest_fits(width: int, kept: list[int]) -> None:
    assert columns_that_fit(HEADERS, ROWS, ("ZONE", "STATE"), width) == kept


def test_a_table_without_rows_has_its_headers() -> None:
    assert columns_that_fit(HEADERS, (), ("ZONE",), 80) == [0, 1, 2, 3]


def printed(width: int, droppable: tuple[str, ...], *, terminal: bool = True, color: bool = False) -> str:
    output = io.StringIO()
    shown = Terminal()
    shown.out = Console(file=output, width=width, force_terminal=terminal, highlight=False, no_color=not color)
    shown.table(HEADERS, ROWS, ["green"], droppable=droppable)
    return output.getvalue()


@pytest.mark.parametrize("width", [45, 60, 80, 140])
def test_no_cell_is_cut_at_any_width(width: int) -> None:
    text = printed(width, ("ZONE", "STATE"))
    assert "i-0d3c5a1f9b7e24680" in text
    assert "203.0.113.118:8000" in text
    assert ("us-east-1a" in text) is (width >= 58)


def test_what_cannot_be_left_out_is_not_cut_either() -> None:
    lines = printed(30, ()).splitlines()
    assert len(lines) == 2
    assert "i-0d3c5a1f9b7e24680  ready  us-east-1a  203.0.113.118:8000" in lines[1]


@pytest.mark.parametrize(
    ("headers", "droppable"),
    [
        (nodes.TABLE_HEADERS, nodes.DROPPABLE),
        (streams.TABLE_HEADERS, streams.DROPPABLE),
        (plan.HEADERS, plan.DROPPABLE),
        (key_edits.TABLE_HEADERS, key_edits.DROPPABLE),
    ],
)
def test_each_table_keeps_what_identifies_a_row(headers: tuple[str, ...], droppable: tuple[str, ...]) -> None:
    assert set(droppable) < set(headers)
    assert headers[0] not in droppable


def test_colour_is_for_terminals_that_did_not_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert Terminal().out.no_color is False
    monkeypatch.setenv("NO_COLOR", "1")
    assert Terminal().out.no_color is True
    assert Terminal().err.no_color is True
    assert "\x1b[32m" not in printed(80, ())
