"""The table of commands: what the help and a completion import, and that each entry leads to a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.commands import COMMANDS, CommandEntry, load
from cli.main import main
from tests.unit.cli.conftest import Run

ROOT = Path(__file__).parents[3]
AT_THE_END = "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))"
SLOW = {
    "boto3",
    "botocore",
    "rich",
    "cli.terminal",
    "stacks",
    "stacks.settings",
    "httpx",
    "orjson",
    "uvloop",
    "asyncio",
}


def imported(code: str, **environ: str) -> tuple[set[str], str]:
    """The modules that a new interpreter has after `code`, and what it printed."""
    command = f"import atexit, json, sys\n{AT_THE_END}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--version"], ["frobnicate"]])
def test_neither_the_help_nor_a_wrong_command_imports_what_is_slow(argv: list[str]) -> None:
    modules, output = imported(f"from cli.main import main; main({argv})")
    assert modules & SLOW == set()
    assert not any(name.startswith("cli.core") for name in modules)
    if "h" in argv[0]:
        assert all(entry.summary.split()[0] in output for entry in COMMANDS)


def test_completion_of_a_command_imports_none() -> None:
    request = {"_SYNKTI_COMPLETE": "complete_bash", "COMP_WORDS": "synkti sc", "COMP_CWORD": "1"}
    modules, output = imported("from cli.main import run; run()", **request)
    assert output.split() == ["scale"]
    assert modules & SLOW == set()


@pytest.mark.parametrize(
    ("words", "found"),
    [("synkti scale --wi", ["--within"]), ("synkti keys ro", ["rotate"]), ("synkti --vers", ["--version"])],
)
def test_options_and_commands_of_groups_are_completed(words: str, found: list[str]) -> None:
    request = {"_SYNKTI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    assert imported("from cli.main import run; run()", **request)[1].split() == found


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_each_entry_leads_to_a_command_of_its_name(entry: CommandEntry) -> None:
    command = load(entry)
    assert command.name == entry.name
    assert command.get_short_help_str(200) == entry.summary


@pytest.mark.parametrize("argv", [("nodes", "-h"), ("keys", "-h"), ("drill", "-h"), ("drill", "node", "-h")])
def test_each_command_has_a_short_option_for_its_help(argv: tuple[str, ...], run: Run) -> None:
    done = run(*argv)
    assert (done.code, done.err) == (0, "")
    assert "Usage: synkti" in done.out


def test_a_bug_keeps_its_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cli.stop.stop", broken)
    with pytest.raises(ZeroDivisionError):
        main(["stop"])
