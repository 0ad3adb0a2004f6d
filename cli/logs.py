"""`synkti logs`: what a node writes, from its journal while it is there, from CloudWatch when it is gone."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError

from cli.adapters.instances import Instances
from cli.adapters.ssm import Commands, become, session_command
from cli.aws_errors import error_code
from cli.connect import NodeArgument
from cli.core.nodes import Node, pick
from cli.errors import BadUsage, NotFound
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal
from cli.waiting import Clock
from node_agent.contract.instants import format_instant
from node_agent.contract.names import node_log_group_name

CLOCK = Clock()
MAX_LINES = 2_000
_UNITS = ("synkti-node", "synkti-boot")
_PAGES = 20
"""Of CloudWatch's answer; each has up to 10,000 lines."""


class Origin(StrEnum):
    """Where lines are read."""

    AUTO = "auto"
    JOURNAL = "journal"
    CLOUDWATCH = "cloudwatch"


def logs(
    node: NodeArgument = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="The last so many.", min=1, max=MAX_LINES)] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="New lines as they come, until Ctrl-C.")] = False,
    origin: Annotated[Origin, typer.Option("--from", help="auto: the journal of a node that is there.")] = Origin.AUTO,
    since: Annotated[int, typer.Option(help="With CloudWatch: minutes back.", min=1, max=43_200)] = 60,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """What a node's boot and agent have written, vLLM's own lines among them.

    A node that is there is asked for its journal, through Systems Manager. A node that is gone has left its lines in
    CloudWatch; without NODE those of all nodes are read there. --follow needs the aws command with its
    session-manager-plugin.

    \b
    Examples:
      synkti logs i-0abc
      synkti logs i-0abc --follow
      synkti logs --since 15
      synkti logs i-0abc --from cloudwatch --lines 1000
    """
    terminal = Terminal(as_json)
    if follow and as_json:
        raise BadUsage("--follow has no end, and so no document", "leave out --json")
    fleet = open_fleet(cluster, region, profile)
    there = Instances(fleet.account.client("ec2"), fleet.cluster).nodes()
    chosen = _chosen(there, node, origin)
    if chosen is not None:
        _journal(terminal, fleet, chosen, lines, follow=follow)
    elif follow:
        raise BadUsage("only the journal of one node that is there can be followed", "say which node")
    else:
        _cloudwatch(terminal, fleet, node, lines, since)


def _chosen(there: tuple[Node, ...], given: str | None, origin: Origin) -> Node | None:
    """The node whose journal is read; None for CloudWatch. Raises CliError."""
    if origin is Origin.CLOUDWATCH or (origin is Origin.AUTO and given is None):
        return None
    try:
        return pick(there, given)
    except NotFound:
        if origin is Origin.JOURNAL:
            raise
        return None  # it is gone; CloudWatch may have its lines


def _journal(terminal: Terminal, fleet: Fleet, node: Node, lines: int, *, follow: bool) -> None:
    units = " ".join(f"--unit {unit}" for unit in _UNITS)
    command = f"journalctl {units} --lines {lines} --no-pager --output short-iso"
    if follow:
        document = "AWS-StartInteractiveCommand"
        session = session_command(fleet.account, node.instance_id, document, {"command": [f"sudo {command} --follow"]})
        become(session, fleet.account.environ())
    with terminal.doing(f"asking {node.instance_id} for its journal"):
        said = Commands(fleet.account.client("ssm"), CLOCK).run(node.instance_id, command)
    told = said.splitlines()
    terminal.document({"cluster": fleet.cluster, "node": node.instance_id, "from": "journal", "lines": told})
    for line in told:
        terminal.line(line)


def _cloudwatch(terminal: Terminal, fleet: Fleet, given: str | None, lines: int, since: int) -> None:
    group = node_log_group_name(fleet.cluster)
    with terminal.doing(f"reading {group}"):
        events = _events(fleet.account.client("logs"), group, given, round((time.time() - since * 60) * 1000))
    if not events:
        whose = f"of {given} " if given else ""
        raise NotFound(
            f"CloudWatch has no line {whose}from the last {since} minutes in {group}", "--since looks further back"
        )
    last = events[-lines:]
    terminal.document(
        {"cluster": fleet.cluster, "node": given, "from": "cloudwatch", "lines": [_entry(e) for e in last]}
    )
    for event in last:
        terminal.line(
            f"{format_instant(event['timestamp'] / 1000)} {event['logStreamName']} {event['message'].rstrip()}"
        )


def _events(client: Any, group: str, stream: str | None, start_ms: int) -> list[dict[str, Any]]:
    asked: dict[str, Any] = {"logGroupName": group, "startTime": start_ms}
    if stream:
        asked["logStreamNamePrefix"] = stream
    found: list[dict[str, Any]] = []
    try:
        for number, page in enumerate(client.get_paginator("filter_log_events").paginate(**asked)):
            found += [event for event in page["events"] if event["logStreamName"].startswith(stream or "")]
            if number >= _PAGES:
                break
    except ClientError as error:
        if error_code(error) != "ResourceNotFoundException":
            raise
        raise NotFound(f"CloudWatch has no log group {group}", "no node has written to it yet") from error
    return sorted(found, key=lambda event: event["timestamp"])


def _entry(event: dict[str, Any]) -> dict[str, object]:
    return {
        "at": format_instant(event["timestamp"] / 1000),
        "node": event["logStreamName"],
        "message": event["message"].rstrip(),
    }
