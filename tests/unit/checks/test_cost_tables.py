"""The figures of docs/cost.md are those of `synkti cost`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checks.cost_tables import BILL, END, INTERRUPTION, OPTIONS, PAGE, replace_tables
from tests.unit.cli.conftest import Run, nowhere, run

__all__ = ["nowhere", "run"]


def test_the_page_has_the_figures_of_the_command() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == replace_tables(page), "write it anew: python -m checks.cost_tables"


def test_the_bill_of_the_page_is_what_the_command_prints(run: Run, nowhere: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    block = page.partition(BILL)[2].partition(END)[0]
    shown = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in block.splitlines() if "|" in line]
    printed = [row for row in run("cost", "--prices", "file").table if row][1 : len(shown) - 1]
    assert [[cell for cell in row if cell] for row in shown[2:]] == printed


def test_prose_has_no_prices_of_its_own() -> None:
    """They would stay when the price file changes."""
    page = PAGE.read_text(encoding="utf-8")
    for mark in (BILL, OPTIONS, INTERRUPTION):
        before, _, rest = page.partition(mark)
        page = before + rest.partition(END)[2]
    assert re.findall(r"\$\d[\d.,]*|\d+ ?%", page) == []


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lost its marks"):
        replace_tables("# Cost\n")
