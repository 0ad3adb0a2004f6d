"""docs/cli.md matches the output of the commands."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cli.commands import COMMANDS, load
from cli.exit_codes import ExitCode
from stacks.settings import FleetSettings
from tests.unit.cli.reference import PAGE, page

ROOT = PAGE.parents[1]
GUIDE = ROOT / "docs" / "gitops.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_page_matches_the_output_of_the_commands() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.unit.cli.reference"


def test_every_command_and_every_exit_code_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = [name for entry in COMMANDS for name in names_below(entry.name, load(entry))]
    assert len(names) > 20
    assert {name for name in names if f"## `synkti {name}`" not in page} == set()
    for code in ExitCode:
        assert f"| {int(code)} | `{code.label}` |" in page


def test_every_command_has_examples_and_json() -> None:
    page = PAGE.read_text(encoding="utf-8").split("\n## ")
    commands = [section for section in page if section.startswith("`synkti ")]
    for section in commands:
        assert "Examples:\n    synkti " in section
        assert "--json" in section


def names_of_commands() -> set[str]:
    return {entry.name for entry in COMMANDS}


def names_below(name: str, command: Any) -> list[str]:
    """A command's own name; those of a group's commands."""
    return [f"{name} {each}" for each in command.commands] if hasattr(command, "commands") else [name]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_every_command_that_a_page_names_exists(path: Path) -> None:
    page = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
    named = set(re.findall(r"(?:`|\$ |^|; |\( ?)synkti ([a-z]+(?:-[a-z]+)*)", page))
    assert named <= names_of_commands(), named - names_of_commands()


def test_every_setting_and_path_that_the_guide_names_exists() -> None:
    page = GUIDE.read_text(encoding="utf-8")
    known = {each.name for each in fields(FleetSettings)}
    assigned = set(re.findall(r"^([a-z_]+) = ", page, re.MULTILINE)) | set(re.findall(r"`([a-z_]+) = ", page))
    assert assigned <= known, assigned - known
    assert len(assigned) > 5
    paths = {
        each for each in re.findall(r"`([\w./-]+)`", page) if each.startswith(("cli/", "stacks/", "node_agent/", "."))
    }
    for each in paths | set(re.findall(r"\]\((\w+\.md)\)", page)):
        assert (ROOT / each).exists() or (GUIDE.parent / each).exists(), each


def test_the_guides_own_links_resolve() -> None:
    page = GUIDE.read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\(#([a-z0-9-]+)\)", page)) == anchors
