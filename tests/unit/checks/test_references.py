"""The pages of reference have a line for each setting, each metric and each route."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks.references import PAGES, agent_rows, fleet_rows, metric_rows, route_rows


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_what_the_source_says(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page == PAGES[path](page), "write it anew: python -m checks.references"


def test_each_line_says_what_the_thing_is() -> None:
    rows = [*fleet_rows(), *agent_rows(), *metric_rows(), *route_rows()]
    assert len(rows) > 150
    assert [row for row in rows if len(row[-1]) < 10 or not row[-1].endswith((".", ")"))] == []
    assert [
        row for row in agent_rows() if "SYNKTI_" not in row[0] and "AWS_" not in row[0] and "RUNTIME_" not in row[0]
    ] == []
