"""`synkti init`: write the synkti.toml of a new deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import stacks
from cli.adapters.cdk import installed_file
from cli.core.first_settings import QUESTIONS, faults_of, first_settings, settings_text
from cli.core.settings_file import rendered
from cli.errors import BadConfiguration, Failed
from cli.options import Json
from cli.terminal import Terminal
from stacks.settings import SETTINGS_FILE


def init(
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="owner/name on the hub, or the name of a model that you will push."),
    ] = None,
    instance_types: Annotated[
        str | None, typer.Option(metavar="TYPES", help="Instance types, with commas between them.")
    ] = None,
    nodes: Annotated[str | None, typer.Option(metavar="N", help="The number of nodes.")] = None,
    client_cidrs: Annotated[
        str | None, typer.Option(metavar="RANGES", help="Who may call the nodes: IPv4 ranges, with commas.")
    ] = None,
    alarm_email: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Who gets mail of alarms.")] = None,
    cluster: Annotated[str | None, typer.Option(metavar="NAME", help="The cluster's name.")] = None,
    region: Annotated[str | None, typer.Option(metavar="REGION", help="The AWS region.")] = None,
    as_json: Json = False,
) -> None:
    """Write synkti.toml into this folder: every setting with its meaning, and yours set.

    On a terminal it asks for what no option gives; elsewhere the defaults are taken. A file that exists is never
    overwritten. No request is made.

    \b
    Examples:
      synkti init
      synkti init --model Qwen/Qwen2.5-7B-Instruct-AWQ --instance-types g4dn.xlarge --region us-east-1
      synkti init --json --nodes 5

    \f

    Raises:
        Failed: there is a synkti.toml, or it cannot be written.
        BadConfiguration: a value has a character that no setting may have.
    """
    terminal = Terminal(as_json)
    path = Path.cwd() / SETTINGS_FILE
    if path.exists():
        raise Failed(f"{path} exists; nothing was changed", "edit it: every setting is in it, with its meaning")
    given = {
        "region": region,
        "cluster": cluster,
        "model": model,
        "instance_types": instance_types,
        "nodes": nodes,
        "client_cidrs": client_cidrs,
        "alarm_email": alarm_email,
    }
    answers = {each.setting: _answer(terminal, given[each.setting], each.text, each.default) for each in QUESTIONS}
    values = first_settings(answers)
    if faults := faults_of(values):
        raise BadConfiguration("; ".join(faults))
    shipped = installed_file(Path(stacks.__file__).resolve().parents[1], SETTINGS_FILE).read_text(encoding="utf-8")
    text = settings_text(shipped, values)
    _create(path, text)
    terminal.document({"file": str(path), "settings": values})
    terminal.line(f"{SETTINGS_FILE} is written; every setting is in it, with its default and its meaning")
    for name, value in values.items():
        terminal.line(f"  {name} = {rendered(value)}")
    terminal.status("next: synkti doctor, synkti cost, synkti bootstrap")


def _answer(terminal: Terminal, given: str | None, question: str, default: str) -> str:
    return given if given is not None else terminal.ask(question, default)


def _create(path: Path, text: str) -> None:
    """Write a file that must not exist yet. Raises Failed."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Failed(f"{path} could not be written: {error.strerror}") from error
