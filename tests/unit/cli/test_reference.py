"""docs/cli.md says what the commands say."""

from __future__ import annotations

from cli.exit_codes import ExitCode
from cli.main import app
from tests.unit.cli.reference import PAGE, page


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.unit.cli.reference"


def test_every_command_and_every_exit_code_is_on_the_page() -> None:
    told = PAGE.read_text(encoding="utf-8")
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert len(names) > 10
    for name in [*names, "model push", "model ls", "model rm"]:
        assert f"## `synkti {name}`" in told
    for code in ExitCode:
        assert f"| {int(code)} | `{code.word}` |" in told


def test_every_command_has_examples_and_json() -> None:
    told = PAGE.read_text(encoding="utf-8").split("\n## ")
    commands = [section for section in told if section.startswith("`synkti ")]
    for section in commands:
        assert "Examples:\n    synkti " in section
        assert "--json" in section
