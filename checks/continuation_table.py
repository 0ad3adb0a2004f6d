"""The table of docs/continuation.md, made of what the contract tests found on a real vLLM.

    python -m pytest tests/contract/test_continuation.py    writes what it found into out/continuation.json
    python -m pytest tests/contract/test_event_streams.py   the same of two routes, into out/continuation-events.json
    python -m checks.continuation_table                     puts it into the page

Nothing is written by hand between the two marks of the page, so that the table cannot promise what no test showed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Rows of Markdown. Each result: what, way, outcome, cuts by way, rewind (what one does to it), why."""
    return _HEAD + "".join(_line(result) for result in results)


def _line(result: Mapping[str, Any]) -> str:
    cuts = ", ".join(f"{way} {number}" for way, number in result["cuts"].items()) or "-"
    outcome = _OUTCOMES[result["outcome"]] + (f": {result['why']}" if result.get("why") else "")
    return f"| {result['what']} | {result['way']} | {outcome} | {cuts} | {result['rewind']} |\n"


def put(page: str, made: str) -> str:
    """The page with the table in the place of the one before. Raises ValueError where it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has lost its marks, {BEGIN} and {END}")
    return f"{before}{begin}\n{made}{end}{behind}"


def main() -> int:
    try:
        results = [result for path in (RESULTS, EVENT_RESULTS) for result in json.loads(path.read_text()).values()]
    except FileNotFoundError as missing:
        tests = "test_continuation.py and test_event_streams.py of tests/contract"
        print(f"{missing.filename} is not there: run {tests}, whole", file=sys.stderr)
        return 1
    PAGE.write_text(put(PAGE.read_text(), table(results)))
    print(f"{len(results)} rows in {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
