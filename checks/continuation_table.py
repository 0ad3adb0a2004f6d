"""Generate the table of docs/continuation.md from the results of the contract tests with a real vLLM.

    python -m pytest tests/contract/test_continuation.py    writes its results to out/continuation.json
    python -m pytest tests/contract/test_event_streams.py   those of two routes, to out/continuation-events.json
    python -m checks.continuation_table                     writes the table into the page

Everything between the page's two marks is generated, so that the table claims only what a test showed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checks.pages import replace_block

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "continuation.md"
RESULTS = ROOT / "out" / "continuation.json"
EVENT_RESULTS = ROOT / "out" / "continuation-events.json"
BEGIN, END = "<!-- table: made by checks/continuation_table -->", "<!-- end of the table -->"
_HEAD = "| request | way | what the client has | cuts compared | a plain rewind |\n|---|---|---|---|---|\n"
_OUTCOMES = {
    "exact": "exact",
    "continuous": "continuous, with draws of its own",
    "refused": "an explicit error",
}


def render_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown. Keys of a result: what, way, outcome, cuts by way, rewind (its effect), why."""
    return _HEAD + "".join(_row(result) for result in results)


def _row(result: Mapping[str, Any]) -> str:
    cuts = ", ".join(f"{way} {number}" for way, number in result["cuts"].items()) or "-"
    outcome = _OUTCOMES[result["outcome"]] + (f": {result['why']}" if result.get("why") else "")
    return f"| {result['what']} | {result['way']} | {outcome} | {cuts} | {result['rewind']} |\n"


def replace_table(page: str, made: str) -> str:
    """Replace the page's table. Raises ValueError where the page has no marks."""
    return replace_block(page, BEGIN, END, made)


def main() -> int:
    """Write the table into the page. Returns the exit code: 1 where there are no results."""
    try:
        results = [result for path in (RESULTS, EVENT_RESULTS) for result in json.loads(path.read_text()).values()]
    except FileNotFoundError as missing:
        tests = "test_continuation.py and test_event_streams.py of tests/contract"
        print(f"{missing.filename} does not exist: run all of {tests}", file=sys.stderr)
        return 1
    PAGE.write_text(replace_table(PAGE.read_text(), render_table(results)))
    print(f"{len(results)} rows in {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
