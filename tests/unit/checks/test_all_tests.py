"""Test the command of `make test`: every folder of tests is run, once."""

from __future__ import annotations

from pathlib import Path

from checks.all_tests import WHOLE, commands

TESTS = Path(__file__).parents[2]


def test_every_folder_with_tests_is_run_by_one_of_the_two_commands() -> None:
    whole, others = ([word for word in command if word.startswith("tests/")] for command in commands())
    assert whole == [f"tests/{name}" for name in WHOLE]
    found = {f"tests/{path.relative_to(TESTS).parts[0]}" for path in TESTS.rglob("test_*.py")}
    assert sorted([*whole, *others]) == sorted(found)


def test_what_has_deadlines_is_not_the_command_of_lower_priority() -> None:
    whole, others = commands()
    assert (whole[0] == "nice", others[0]) == (False, "nice")
