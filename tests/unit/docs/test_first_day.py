"""docs/first-day.md has the times that the code sets, and the steps that the drill has."""

from __future__ import annotations

import importlib
import re

import pytest

from cli.drill_first_day import STEPS
from stacks.settings import FleetSettings
from tests.unit.docs.test_docs import DOCS

PAGE = (DOCS / "first-day.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| (?:every )?(?P<value>\d+)(?: (?:s|min|h))? \| `(?P<path>[^`]+)` `(?P<name>\w+)` \|$"
)
TIMES = PAGE.partition("## The times that the code sets\n")[2].partition("\n## ")[0]
ROWS = [found for line in TIMES.splitlines() if (found := ROW.match(line))]


def value_of(path: str, name: str) -> float:
    if path == "stacks/settings.py":
        return float(getattr(FleetSettings(), name))
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return float(getattr(module, name))


def test_every_row_of_the_table_is_compared() -> None:
    lines = [line for line in TIMES.splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - 1 > 15, "all but the head"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["name"]))
def test_a_time_is_that_of_the_code(row: re.Match[str]) -> None:
    assert float(row["value"]) == value_of(row["path"], row["name"]), row["what"]


def test_the_page_has_every_step_of_the_drill_and_no_other() -> None:
    section = PAGE.partition("## The drill\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [step.name for step in STEPS]


def test_the_interruption_has_the_times_of_the_code() -> None:
    section = PAGE.partition("## The first interruption\n")[2].partition("\n## ")[0]
    lead, clients, retire = (
        int(value_of(path, name))
        for path, name in (
            ("node_agent/contract/aws_events.py", "NOTICE_LEAD_S"),
            ("node_agent/core/node/lifecycle.py", "CLOSE_CLIENTS_BEFORE_S"),
            ("node_agent/core/node/lifecycle.py", "RETIRE_BEFORE_S"),
        )
    )
    seconds = re.findall(r"^\| (\d+) \|", section, re.MULTILINE)
    assert seconds == ["0", str(lead - clients), str(lead - retire), str(lead)]
