"""The table of docs/continuation.md is made by a script, and has every row that the tests run."""

from __future__ import annotations

import pytest

from checks.continuation_table import BEGIN, END, PAGE, render_table, replace_table
from tests.contract.event_rows import ROWS as EVENT_ROWS
from tests.contract.rows import ROWS

RESULT = {"what": "`seed`", "way": "resume", "outcome": "exact", "cuts": {"resume": 5, "forced": 2}, "rewind": "fails"}


def test_a_result_is_a_row() -> None:
    made = render_table([RESULT, {**RESULT, "outcome": "refused", "cuts": {}, "why": "unknown"}])
    assert made.splitlines()[2:] == [
        "| `seed` | resume | exact | resume 5, forced 2 | fails |",
        "| `seed` | resume | an explicit error: unknown | - | fails |",
    ]


def test_the_table_replaces_the_one_before_and_nothing_else() -> None:
    page = f"before\n{BEGIN}\n| old |\n{END}\nbehind"
    assert replace_table(page, "| new |\n") == f"before\n{BEGIN}\n| new |\n{END}\nbehind"
    with pytest.raises(ValueError, match="lost its marks"):
        replace_table(f"before {BEGIN}", "")


def test_the_page_has_the_rows_that_are_tested_and_no_others() -> None:
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in shown] == [row.what for row in (*ROWS, *EVENT_ROWS)]
    ways = [*(row.way.value for row in ROWS), *["resume"] * len(EVENT_ROWS)]
    assert [line.split(" | ")[1] for line in shown] == ways
    assert len({row.name for row in ROWS}) == len(ROWS)
