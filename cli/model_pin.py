"""Pin a model's weights: write the SHA-256 of its manifest into synkti.toml, so that nodes refuse any other."""

from __future__ import annotations

from pathlib import Path

from cli.deployment import file_of, read_request, write_settings
from cli.fleet import Fleet
from cli.terminal import Terminal
from stacks.settings import FleetSettings

SETTING = "model_sha256"


def pin_pushed(terminal: Terminal, fleet: Fleet, name: str, digest: str) -> None:
    """Pin a model that was pushed, if synkti.toml of the working directory is this cluster's and names this model.

    Raises Failed where the file cannot be changed.
    """
    what = read_request(fleet.cluster, fleet.account.region, fleet.account.profile, ())
    if not isinstance(what.settings, FleetSettings) or what.settings.model_sha256 == digest:
        return  # a deployment reports what is wrong with the settings
    path = file_of(what)
    if path is None or (what.settings.cluster, what.settings.model) != (fleet.cluster, name):
        terminal.status("to deploy it, set these two lines in synkti.toml")
        return
    if what.settings.model_sha256:
        terminal.status(f"synkti.toml pinned other weights until now: {SETTING} = {what.settings.model_sha256}")
    pin(terminal, path, digest)


def pin(terminal: Terminal, path: Path, digest: str) -> None:
    """Write the setting into the file, and show it. Raises Failed."""
    write_settings(path, {SETTING: digest})
    terminal.status(f'{path.name} has now {SETTING} = "{digest}": nodes refuse other weights; commit it')
