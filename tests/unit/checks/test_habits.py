"""The pages for contributors name what exists; hooks, forms of issues and the dev container are well formed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # a dependency of cfn-lint, without types

ROOT = Path(__file__).parents[3]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".github/pull_request_template.md")
FORMS = sorted(path.name for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
FOLDERS = r"(?:\.devcontainer|\.github|checks|cli|client|docs|lambdas|local|node_agent|stacks|tests)"
PATH = re.compile(rf"(?<![\w/:.-]){FOLDERS}/[\w./-]*\w/?(?:::\w+)?")
TARGET = re.compile(r"(?:`|^)make ([a-z-]+)", re.MULTILINE)
HEADING = re.compile(r"## \[(?:Unreleased\]|\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d)")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def missing(page: str) -> list[str]:
    """The files, tests and links of a page that do not exist."""
    wrong = []
    for found in PATH.findall(page):
        name, _, test = found.partition("::")
        path = ROOT / name
        if not path.exists() or (test and f"def {test}(" not in path.read_text()):
            wrong.append(found)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page)
    return wrong + [link for link in links if "://" not in link and not (ROOT / link).exists()]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_files_and_tests_that_exist(name: str) -> None:
    assert missing(text(name)) == []


def test_a_missing_file_or_test_is_found() -> None:
    here = "tests/unit/checks/test_habits.py"
    wrong = ["node_agent/nowhere.py", f"{here}::test_nothing"]
    assert missing(f"`{wrong[0]}`, `{wrong[1]}`, `{here}::test_a_missing_file_or_test_is_found` [x](no.md)") == [
        *wrong,
        "no.md",
    ]


def test_contributing_names_a_file_and_a_test_for_each_kind_of_change() -> None:
    sections = text("CONTRIBUTING.md").partition("## Where a change goes")[2].split("\n## ")[0].split("\n### ")[1:]
    assert len(sections) >= 7
    for section in sections:
        assert "Fails until done" in section, section.splitlines()[0]
        assert any(found.startswith("tests/") for found in PATH.findall(section)), section.splitlines()[0]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_targets_that_make_has(name: str) -> None:
    rules = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    named = set(TARGET.findall(text(name)))
    assert named <= rules
    if name == "CONTRIBUTING.md":
        assert named >= {"setup", "lint", "test", "test-all", "chaos", "faults", "fuzz", "abuse", "soak"}


def test_contributing_names_every_marker() -> None:
    declared = re.search(r"^markers = \[(.*?)^\]", text("pyproject.toml"), re.MULTILINE | re.DOTALL)
    assert declared is not None
    for marker in re.findall(r'"(\w+):', declared[1]):
        assert f"**`{marker}`**" in text("CONTRIBUTING.md")


def test_the_changelog_begins_with_the_unreleased_section() -> None:
    headings = re.findall(r"^## .*", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "## [Unreleased]"
    assert [heading for heading in headings if not HEADING.fullmatch(heading)] == []


def test_hooks_are_the_projects_own_tools() -> None:
    lock = text("requirements/dev.txt")
    (repository,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    linters = {"lint-imports": "import-linter"}
    for hook in repository["hooks"]:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert hook["language"] == "system"
        assert re.search(rf"^{linters.get(tool, tool)}==", lock, re.MULTILINE), tool


@pytest.mark.parametrize("name", FORMS)
def test_an_issue_form_has_the_fields_that_github_requires(name: str) -> None:
    form: dict[str, Any] = yaml.safe_load(text(f".github/ISSUE_TEMPLATE/{name}"))
    assert {"name", "description", "body"} <= set(form)
    kinds = [field["type"] for field in form["body"]]
    assert set(kinds) <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0


def test_the_dev_container_is_pinned_and_sets_itself_up() -> None:
    container = json.loads(text(".devcontainer/devcontainer.json"))
    assert container["postCreateCommand"] == "make setup"
    (image,) = re.findall(r"^FROM (\S+)$", text(f".devcontainer/{container['build']['dockerfile']}"), re.MULTILINE)
    for reference in (image, *container["features"]):
        assert re.search(r":\d+\.\d+\.\d+(-|$)|@sha256:[0-9a-f]{64}$", reference), reference
