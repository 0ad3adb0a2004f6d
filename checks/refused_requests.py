"""Generate the tables of docs/security.md, *What gets through*: refused requests, guarded fields, bounds.

    python -m checks.refused_requests    writes them into the page

The requests are those that the tests send (`tests/refused_requests`); fields and bounds are the code's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from checks.pages import replace_block
from node_agent.contract.client_requests import GUARDED_FIELDS, OPTIONAL_ROUTES
from node_agent.core.policy.bounds import RequestBounds
from tests.refused_requests import CONTROL_TOKEN, REFUSED, RefusedRequest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "security.md"
_MARK = "<!-- {}: made by checks/refused_requests -->", "<!-- end of {} -->"


def render_requests() -> str:
    """Return the table of refused requests in Markdown."""
    rows = "".join(map(_row, (*REFUSED, CONTROL_TOKEN)))
    return f"| source | the request has | answer |\n|---|---|---|\n{rows}"


def _row(request: RefusedRequest) -> str:
    shape = request.shape.replace("|", "\\|")
    param = f", `{request.param}`" if request.param else ""
    return f"| {request.source} | {shape} | {request.status} `{request.code}`{param} |\n"


def render_fields() -> str:
    """Return the table of guarded fields in Markdown."""
    rows = "".join(f"| `{name}` | {does} |\n" for name, does in sorted(GUARDED_FIELDS.items()))
    return f"| name | what it does |\n|---|---|\n{rows}"


def render_routes() -> str:
    """Return the optional routes in Markdown."""
    return ", ".join(f"`{path}`" for path in sorted(OPTIONAL_ROUTES)) + ".\n"


def render_bounds() -> str:
    """Return the table of bounds in Markdown, with the docstring of each as its description."""
    lines = Path(sys.modules[RequestBounds.__module__].__file__ or "").read_text(encoding="utf-8").splitlines()
    rows = []
    for at, line in enumerate(lines):
        name, _, default = line.strip().partition(": int = ")
        if default and name in RequestBounds.__dataclass_fields__:
            what = lines[at + 1].strip().strip('"').rstrip(".")
            rows.append(f"| `SYNKTI_{name.upper()}` | {int(default):,} | {what} |\n")
    return "| variable | default | of what |\n|---|---|---|\n" + "".join(rows)


BLOCKS = {
    "requests": render_requests,
    "fields": render_fields,
    "routes": render_routes,
    "bounds": render_bounds,
}


def replace_tables(page: str) -> str:
    """Replace all tables of the page. Raises ValueError where the page has lost a mark."""
    for name, render in BLOCKS.items():
        begin, end = (mark.format(name) for mark in _MARK)
        page = replace_block(page, begin, end, render())
    return page


def main() -> int:
    """Write the tables into the page; return 0."""
    PAGE.write_text(replace_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
