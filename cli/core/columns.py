"""Choose the columns of a table that fit a terminal: whole columns are left out, no cell is cut."""

from __future__ import annotations

from collections.abc import Sequence

GAP = 2
"""Blanks between two columns."""


def columns_that_fit(
    headers: Sequence[str], rows: Sequence[Sequence[str]], droppable: Sequence[str], width: int
) -> list[int]:
    """Choose the columns to show.

    Args:
        headers: of all columns.
        rows: their cells.
        droppable: headers of columns that may be left out, the least important first.
        width: of the terminal, in characters.

    Returns:
        The positions of the columns. Those that are not droppable are always among them.
    """
    widths = [max(len(row[at]) for row in (headers, *rows)) for at in range(len(headers))]
    kept = list(range(len(headers)))
    for header in droppable:
        if sum(widths[at] for at in kept) + GAP * (len(kept) - 1) <= width:
            break
        kept.remove(headers.index(header))
    return kept
