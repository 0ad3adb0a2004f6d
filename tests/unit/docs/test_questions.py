"""A stranger finds the answers to twelve questions in two clicks from the README: a page, then its section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
QUESTIONS = [
    line.strip("| ").split(" | ")
    for line in (ROOT / "docs/testing.md").read_text().partition("## Twelve questions")[2].splitlines()
    if line.startswith("| ") and "?" in line
]


def sections(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_twelve() -> None:
    assert len(QUESTIONS) == 12


@pytest.mark.parametrize(("question", "answer"), QUESTIONS, ids=[question for question, _ in QUESTIONS])
def test_the_page_is_linked_from_the_readme_and_has_the_section(question: str, answer: str) -> None:
    found = LINK.search(answer)
    assert found is not None, question
    page, section = found[1], found[2]
    linked = {path for path, _ in LINK.findall((ROOT / "README.md").read_text())}
    assert f"docs/{page}" in linked
    assert section is None or section in sections(ROOT / "docs" / page)
