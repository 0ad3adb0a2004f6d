"""The tables of docs/security.md are those of the code and of the tests."""

from __future__ import annotations

from checks.refused_requests import PAGE, render_bounds, replace_tables
from node_agent.core.policy.bounds import SETTINGS
from tests.refused_requests import REFUSED

NAMED = (
    "vllm #58144", "CVE-2026-48746", "CVE-2026-48710", "CVE-2026-34756", "CVE-2025-6242", "CVE-2026-24779",
    "CVE-2026-34755", "CVE-2026-22778", "vllm #57157", "CVE-2025-62164", "CVE-2025-61620", "CVE-2025-62426",
    "CVE-2025-48942", "CVE-2025-48943", "CVE-2025-48944", "CVE-2025-46570",
)  # fmt: skip
"""What a door in front of vLLM has to stop; CVE-2026-44222 needs a model with control tokens."""


def test_the_page_has_the_tables_that_are_generated() -> None:
    page = PAGE.read_text()
    assert replace_tables(page) == page, "run python -m checks.refused_requests"


def test_every_known_weakness_has_a_row() -> None:
    assert {request.source for request in REFUSED} >= set(NAMED)


def test_every_bound_has_a_row() -> None:
    assert all(f"SYNKTI_{name.upper()}" in render_bounds() for name in SETTINGS)
