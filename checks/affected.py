"""Run the unit tests that a change can affect: `python -m checks.affected [pytest's arguments]`.

A change is what differs from the last commit, or the last commit itself where nothing does. A test is affected where
it, or a module that it imports, directly or not, has changed; where it reads a changed file that is no module; and
always if it is about the documentation or the checks. A change of what all tests share runs all of them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
UNIT = "tests/unit"
PACKAGES = ("node_agent", "lambdas", "stacks", "cli", "local", "checks", "sim", "bench")
ALWAYS = (f"{UNIT}/docs", f"{UNIT}/checks")
SHARED = (
    "pyproject.toml",
    "requirements/",
    "tests/conftest.py",
    "tests/generated.py",
    "client/",
    "node_agent/engine_plugin/",
)
"""Files and folders whose change affects tests in ways that no import shows."""

FOLDERS = {"stacks/boot/": f"{UNIT}/boot", "node_agent/contract/instance_prices.json": f"{UNIT}/cli"}
"""Files that are no modules, and the tests that read them."""


def module_of(path: str) -> str:
    """Return the name of the module in a file of the repository. path: relative to its root."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(source: str, modules: Collection[str]) -> set[str]:
    """Return which of the modules a source imports, their packages included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(modules)


def changed_modules(changed: Iterable[str], users: Mapping[str, Collection[str]]) -> set[str]:
    """Return the modules that have changed, and all that use them. users: of each module, directly or not."""
    own = {module_of(path) for path in changed if path.endswith(".py")}
    return own.union(*(users.get(module, ()) for module in own))


def affected_tests(
    changed: Sequence[str], users: Mapping[str, Collection[str]], tests: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the files and folders of the unit tests that a change can affect.

    Args:
        changed: paths, relative to the repository's root.
        users: of each module, the modules that import it, directly or not.
        tests: the source of each file below tests/, by its path.

    Returns:
        What to give to pytest; the folder of all unit tests where what they share has changed.
    """
    if any(path.startswith(SHARED) for path in changed):
        return (UNIT,)
    modules = changed_modules(changed, users)
    known = {module_of(path) for path in tests} | modules
    of_tests = {path: imported(source, known) for path, source in tests.items()}
    while True:  # helpers of tests that import what has changed
        more = {module_of(path) for path, names in of_tests.items() if names & modules} - modules
        if not more:
            break
        modules |= more
    found = {path for path in tests if module_of(path) in modules and Path(path).name.startswith("test_")}
    found |= {str(Path(path).parent) for path in changed if path.endswith("conftest.py") and path in tests}
    found |= {folder for start, folder in FOLDERS.items() if any(path.startswith(start) for path in changed)}
    return (*ALWAYS, *sorted(each for each in found if each.startswith(UNIT) and not each.startswith(ALWAYS)))


def _git(*arguments: str) -> list[str]:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def _changed() -> list[str]:
    differing = {*_git("diff", "--name-only", "HEAD"), *_git("ls-files", "--others", "--exclude-standard")}
    return sorted(differing or _git("diff", "--name-only", "HEAD~1", "HEAD"))


def main(arguments: Sequence[str]) -> int:
    """Run the affected tests; return pytest's exit code."""
    graph = grimp.build_graph(*PACKAGES)
    changed = _changed()
    wanted = {module_of(path) for path in changed if path.endswith(".py")} & graph.modules
    users = {module: graph.find_downstream_modules(module) for module in wanted}
    tests = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    chosen = affected_tests(changed, users, tests)
    print(f"{len(changed)} changed files affect {len(chosen)} files and folders of unit tests", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", *arguments, *chosen], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
