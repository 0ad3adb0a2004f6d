"""`synkti init`: the settings' file that it writes, and what it refuses."""

from __future__ import annotations

import io
import sys
import tomllib
from pathlib import Path

import pytest

from cli.core.first_settings import QUESTIONS
from stacks.settings import SETTINGS_FILE, FleetSettings, load
from tests.unit.cli.conftest import Run

GIVEN = ("--model", "Qwen/Qwen2.5-7B-Instruct-AWQ@main", "--instance-types", "g4dn.xlarge, g6.xlarge", "--nodes", "5")


def nothing(_: str) -> None:
    return None


def test_the_file_has_what_was_chosen_and_every_other_setting_as_a_comment(nowhere: Path, run: Run) -> None:
    done = run("init", *GIVEN, "--region", "eu-west-1")
    assert done.code == 0, done.err
    assert load(nowhere, nothing) == FleetSettings(
        region="eu-west-1",
        model_source="Qwen/Qwen2.5-7B-Instruct-AWQ@main",
        model="Qwen2.5-7B-Instruct-AWQ",
        instance_types=("g4dn.xlarge", "g6.xlarge"),
        nodes=5,
    )
    text = (nowhere / SETTINGS_FILE).read_text()
    assert "# drills = false" in text
    assert "nodes = 5  # instances to keep" in text
    assert "synkti doctor" in done.err


def test_without_options_and_a_terminal_the_defaults_are_written(nowhere: Path, run: Run) -> None:
    assert run("init", "--json").document["settings"] == {}
    assert tomllib.loads((nowhere / SETTINGS_FILE).read_text()) == {}


def test_a_file_that_exists_is_never_overwritten(nowhere: Path, run: Run) -> None:
    (nowhere / SETTINGS_FILE).write_text("nodes = 7\n")
    done = run("init", *GIVEN)
    assert done.code == 1
    assert "exists" in done.err
    assert (nowhere / SETTINGS_FILE).read_text() == "nodes = 7\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--nodes", "many", "--region", "mars"), "nodes='many': must be a whole number"),
        (("--nodes", "many", "--region", "mars"), "region='mars'"),
        (("--client-cidrs", "10.0.0.0/33"), "client_cidrs"),
        (("--model", "a/b/c"), "model_source"),
        (("--cluster", 'a"b'), "has a quote"),
        (("--alarm-email", "a\nb"), "control character"),
        (("--cluster", "\\"), "backslash"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_written(
    argv: tuple[str, ...], message: str, nowhere: Path, run: Run
) -> None:
    done = run("init", *argv)
    assert done.code == 78
    assert message in done.err
    assert not (nowhere / SETTINGS_FILE).exists()


def test_a_person_is_asked_for_what_no_option_gives(nowhere: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Person(io.StringIO):
        def isatty(self) -> bool:
            return True

    answers = {"region": "us-west-2", "nodes": "2", "client_cidrs": "203.0.113.0/24"}
    asked = [each for each in QUESTIONS if each.setting != "model"]
    monkeypatch.setattr(sys, "stdin", Person("".join(f"{answers.get(each.setting, '')}\n" for each in asked)))
    done = run("init", "--model", "mine")
    assert all(each.text in done.err for each in asked)
    expected = FleetSettings(region="us-west-2", nodes=2, client_cidrs=("203.0.113.0/24",), model="mine")
    assert load(nowhere, nothing) == expected
