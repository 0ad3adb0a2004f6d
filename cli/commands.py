"""The commands of `synkti`: their names, their summaries, and the modules that are imported when one of them runs.

boto3 and rich take most of a second to import. The help, a completion and a wrong command need neither.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class CommandEntry:
    """A command or a group of commands. place: module and function, or module and Typer, as "cli.nodes:nodes"."""

    name: str
    place: str
    summary: str


COMMANDS = (
    CommandEntry("init", "cli.init:init", "Write a synkti.toml with your settings."),
    CommandEntry("plan", "cli.plan:plan", "Compare instance types for a model: fit, context, price."),
    CommandEntry("cost", "cli.cost:cost", "Estimate what a deployment costs a month."),
    CommandEntry("bootstrap", "cli.bootstrap:bootstrap", "Deploy a fleet to an AWS account."),
    CommandEntry("doctor", "cli.doctor:doctor", "Check everything that a deployment needs."),
    CommandEntry("status", "cli.status:status", "Whether the fleet is healthy, or what is wrong and what to do."),
    CommandEntry("nodes", "cli.nodes:nodes", "List the nodes and the state of the fleet."),
    CommandEntry("top", "cli.top:top", "Show load, streams and tokens per second of each node, live."),
    CommandEntry("streams", "cli.streams:streams", "List streams, and those that lost nodes left."),
    CommandEntry("events", "cli.events:events", "List interruptions, drains, hand-offs and launches."),
    CommandEntry(
        "certificate", "cli.certificate:certificate", "Show how many streams were continued, and how many broke."
    ),
    CommandEntry("endpoint", "cli.endpoint:endpoint", "Print the base URL for OpenAI clients."),
    CommandEntry("keys", "cli.keys:app", "Keys of clients: create, list, revoke, rotate."),
    CommandEntry("connect", "cli.connect:connect", "Open a shell on a node, or forward a port."),
    CommandEntry("logs", "cli.logs:logs", "Print a node's log."),
    CommandEntry("drain", "cli.drain:drain", "Drain a node and terminate its instance."),
    CommandEntry("shut-out", "cli.shut_out:shut_out", "Exclude a node that may be in someone else's hands."),
    CommandEntry("cluster-key", "cli.cluster_key:app", "The key with which nodes sign: status, rotate."),
    CommandEntry("drill", "cli.drill:app", "Rehearse the loss of a node, or check a new fleet."),
    CommandEntry("scale", "cli.scale:scale", "Set the number of nodes."),
    CommandEntry("stop", "cli.stop:stop", "Set the number of nodes to zero."),
    CommandEntry("resume", "cli.resume:resume", "Launch nodes again after some gave up."),
    CommandEntry("destroy", "cli.destroy:destroy", "Delete everything but models and records."),
    CommandEntry("model", "cli.model:app", "Models in S3: push, ls, rm."),
    CommandEntry("wheelhouse", "cli.wheelhouse:wheelhouse", "Upload the packages that nodes install."),
    CommandEntry("gateway", "cli.gateway:gateway", "Run a proxy: stock clients survive the loss of any node."),
)
"""In the order of the help."""

_BY_NAME = {entry.name: entry for entry in COMMANDS}


class LazyGroup(TyperGroup):
    """A group whose help and completion import no command's module."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of the help."""
        return list(_BY_NAME)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; None where there is none of that name."""
        entry = _BY_NAME.get(cmd_name)
        return load(entry) if entry is not None else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of the commands of the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.summary) for entry in COMMANDS])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return what a shell may complete: options where the word begins with a hyphen, else commands."""
        from typer._click.shell_completion import CompletionItem  # noqa: PLC0415 # of a shell's request only

        names = [each for each in COMMANDS if each.name.startswith(incomplete)]
        commands = [CompletionItem(each.name, help=each.summary) for each in names]
        return [*commands, *super(TyperGroup, self).shell_complete(ctx, incomplete)]


def load(entry: CommandEntry) -> Any:
    """Import a command's module; return its command, or its group of commands."""
    module, _, attribute = entry.place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    # Typer makes commands of an application only, so each gets one of its own.
    holder = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    holder.callback()(_no_options)
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=entry.name, short_help=entry.summary)
    else:
        holder.command(entry.name, short_help=entry.summary)(found)
    group: Any = get_command(holder)
    return group.commands[entry.name]


def _no_options() -> None:
    """The callback that makes `holder` a group."""
