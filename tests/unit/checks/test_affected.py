"""`make check` runs the unit tests that a change can affect, and no fewer."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from checks.affected import ALWAYS, FOLDERS, PACKAGES, ROOT, UNIT, affected_tests, imported, module_of

TESTS = {
    f"{UNIT}/core/test_a.py": "from node_agent.core.a import A\n",
    f"{UNIT}/core/test_b.py": "import node_agent.core.b\n",
    f"{UNIT}/core/test_helped.py": "from tests.unit.core.helper import help_a\n",
    f"{UNIT}/core/helper.py": "from node_agent.core.a import A\n",
    f"{UNIT}/boot/test_script.py": "import subprocess\n",
    "tests/e2e/test_run.py": "from node_agent.core.a import A\n",
}
USERS = {"node_agent.core.a": {"node_agent.core.b"}}


def chosen(*changed: str) -> set[str]:
    return set(affected_tests(changed, USERS, TESTS)) - set(ALWAYS)


def test_tests_of_a_module_and_of_what_uses_it_are_affected() -> None:
    of_b = f"{UNIT}/core/test_b.py"
    assert chosen("node_agent/core/b.py") == {of_b}
    assert chosen("node_agent/core/a.py") == {of_b, f"{UNIT}/core/test_a.py", f"{UNIT}/core/test_helped.py"}


def test_a_changed_test_or_helper_runs() -> None:
    assert chosen(f"{UNIT}/core/test_a.py") == {f"{UNIT}/core/test_a.py"}
    assert chosen(f"{UNIT}/core/helper.py") == {f"{UNIT}/core/test_helped.py"}


def test_files_that_are_no_modules_run_the_tests_that_read_them() -> None:
    assert chosen("stacks/boot/boot.sh") == {f"{UNIT}/boot"}
    assert chosen("README.md") == set(), "those of the documentation run always"


@pytest.mark.parametrize("path", ["pyproject.toml", "requirements/dev.txt", "tests/conftest.py"])
def test_what_all_tests_share_runs_all(path: str) -> None:
    assert affected_tests([path], USERS, TESTS) == (UNIT,)


def test_imports_inside_of_functions_count_and_relative_ones_do_not() -> None:
    source = "def f():\n    from a.b import c\nfrom . import d\nimport e.f\n"
    assert imported(source, {"a.b", "a.b.c", "d", "e.f", "g"}) == {"a.b", "a.b.c", "e.f"}


def test_the_graph_has_each_module_of_the_repository_and_the_folders_exist() -> None:
    modules = grimp.build_graph(*PACKAGES).modules
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    ours = {module_of(str(path.relative_to(ROOT))) for path in files}
    without_a_package = {name for name in ours if name.startswith("node_agent.engine_plugin.")}
    assert ours - without_a_package <= modules
    for folder in (*ALWAYS, *FOLDERS.values()):
        assert (ROOT / folder).is_dir()
    assert all((ROOT / start).exists() for start in map(Path, FOLDERS))
