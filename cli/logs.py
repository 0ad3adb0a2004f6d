"""`synkti logs`: print a node's log: its journal while it runs; CloudWatch's lines or its last log afterwards."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any

import typer
from botocore.exceptions import ClientError

from cli.adapters.instances import Instances
from cli.adapters.ssm import Commands, exec_replace, session_command
from cli.aws_errors import error_code
from cli.connect import NodeArgument
from cli.core.nodes import Node, select_node
from cli.errors import BadUsage, NotFound
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import END_OF_LIFE_PREFIX, node_log_group_name
from node_agent.contract.timestamps import format_instant

CLOCK = Clock()
MAX_LINES = 2_000
_UNIT_PATTERN = "'synkti*'"  # quoted against the shell's globbing on the node
_LAST_LOG_BYTES = 8 * 1024 * 1024
_MAX_PAGES = 20
"""The most pages of CloudWatch's response; each has up to 10,000 lines."""


class LogSource(StrEnum):
    """Where the lines are read from."""

    AUTO = "auto"
    JOURNAL = "journal"
    CLOUDWATCH = "cloudwatch"
    LAST = "last"


def logs(
    node: NodeArgument = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="The number of last lines.", min=1, max=MAX_LINES)] = 200,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines as they arrive, until Ctrl-C.")
    ] = False,
    origin: Annotated[
        LogSource, typer.Option("--from", help="auto: the journal of a running node, else CloudWatch.")
    ] = LogSource.AUTO,
    since: Annotated[int, typer.Option(help="With CloudWatch: minutes back.", min=1, max=43_200)] = 60,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Print the log of a node's boot and agent, which includes vLLM's.

    The journal of a running node is read by Systems Manager. Of a terminated node the lines in CloudWatch are read, or,
    if there are none, the last log that it stored in the checkpoints bucket (--from last). Without NODE the lines of
    all nodes in CloudWatch are printed. --follow needs the aws command with its session-manager-plugin.

    \b
    Examples:
      synkti logs i-0abc
      synkti logs i-0abc --follow
      synkti logs --since 15
      synkti logs i-0abc --from last

    \f

    Raises:
        BadUsage: the options do not fit together, or the node that they need is not named.
    """
    terminal = Terminal(as_json)
    if follow and as_json:
        raise BadUsage("--follow has no end, and so no document", "leave out --json")
    fleet = open_fleet(cluster, region, profile)
    there = Instances(fleet.account.client("ec2"), fleet.cluster).nodes()
    chosen = _select(there, node, origin)
    if chosen is not None:
        _journal(terminal, fleet, chosen, lines, follow=follow)
    elif follow:
        raise BadUsage("only the journal of one running node can be followed", "name the node")
    elif origin is LogSource.LAST:
        if node is None:
            raise BadUsage("--from last is the log of one node", "name it: an instance's id")
        _last_log(terminal, fleet, node, lines)
    else:
        _terminated(terminal, fleet, node, lines, since, origin)


def _select(there: tuple[Node, ...], given: str | None, origin: LogSource) -> Node | None:
    """Return the node whose journal is read; None for CloudWatch. Raises CliError."""
    if origin in (LogSource.CLOUDWATCH, LogSource.LAST) or (origin is LogSource.AUTO and given is None):
        return None
    try:
        return select_node(there, given)
    except NotFound:
        if origin is LogSource.JOURNAL:
            raise
        return None  # terminated; CloudWatch may have its lines


def _journal(terminal: Terminal, fleet: Fleet, node: Node, lines: int, *, follow: bool) -> None:
    command = f"journalctl --unit {_UNIT_PATTERN} --lines {lines} --no-pager --output short-iso"
    if follow:
        document = "AWS-StartInteractiveCommand"
        session = session_command(fleet.account, node.instance_id, document, {"command": [f"sudo {command} --follow"]})
        exec_replace(session, fleet.account.environ())
    with terminal.spinner(f"reading the journal of {node.instance_id}"):
        output = Commands(fleet.account.client("ssm"), CLOCK).run(node.instance_id, command)
    shown = output.splitlines()
    terminal.document({"cluster": fleet.cluster, "node": node.instance_id, "from": "journal", "lines": shown})
    for line in shown:
        terminal.line(line)


def _terminated(terminal: Terminal, fleet: Fleet, given: str | None, lines: int, since: int, origin: LogSource) -> None:
    try:
        _cloudwatch(terminal, fleet, given, lines, since)
    except NotFound:
        if origin is LogSource.CLOUDWATCH or given is None:
            raise
        _last_log(terminal, fleet, given, lines)


def _last_log(terminal: Terminal, fleet: Fleet, instance_id: str, lines: int) -> None:
    """Print the log that the node stored in S3 when it ended. Raises NotFound."""
    bucket = fleet.output("CheckpointsBucket")
    if bucket is None:
        raise NotFound(f"the cluster {fleet.cluster!r} has no checkpoints bucket")
    s3, prefix = fleet.account.client("s3"), f"{END_OF_LIFE_PREFIX}{instance_id}/"
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    if not found:
        raise NotFound(
            f"{instance_id} has left no line in CloudWatch and no log in s3://{bucket}/{prefix}",
            "logs there are kept for a week; --since looks further back in CloudWatch",
        )
    key = max(found, key=lambda entry: entry["LastModified"])["Key"]
    output = s3.get_object(Bucket=bucket, Key=key)["Body"].read(_LAST_LOG_BYTES).decode(errors="replace")
    shown = output.splitlines()[-lines:]
    terminal.status(f"s3://{bucket}/{key}:")
    terminal.document({"cluster": fleet.cluster, "node": instance_id, "from": f"s3://{bucket}/{key}", "lines": shown})
    for line in shown:
        terminal.line(line)


def _cloudwatch(terminal: Terminal, fleet: Fleet, given: str | None, lines: int, since: int) -> None:
    group = node_log_group_name(fleet.cluster)
    with terminal.spinner(f"reading {group}"):
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
    query: dict[str, Any] = {"logGroupName": group, "startTime": start_ms}
    if stream:
        query["logStreamNamePrefix"] = stream
    found: list[dict[str, Any]] = []
    try:
        for number, page in enumerate(client.get_paginator("filter_log_events").paginate(**query)):
            found += [event for event in page["events"] if event["logStreamName"].startswith(stream or "")]
            if number >= _MAX_PAGES:
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
