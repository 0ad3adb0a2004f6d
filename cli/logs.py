"""`synkti logs`: what a node writes: its journal while it is there, CloudWatch and its last log when it is gone."""

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
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import END_OF_LIFE_PREFIX, node_log_group_name
from node_agent.contract.timestamps import format_instant

CLOCK = Clock()
MAX_LINES = 2_000
_UNITS = "'synkti*'"  # the shell on the node is not to take it for files
_LAST_LOG_BYTES = 8 * 1024 * 1024
_PAGES = 20
"""Of CloudWatch's answer; each has up to 10,000 lines."""


class Origin(StrEnum):
    """Where lines are read."""

    AUTO = "auto"
    JOURNAL = "journal"
    CLOUDWATCH = "cloudwatch"
    LAST = "last"


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

    A node that is there is asked for its journal, through Systems Manager. Of a node that is gone the lines in
    CloudWatch are read, or, where there are none, the last log that it left in the checkpoints bucket (--from last).
    Without NODE it is the lines of all nodes in CloudWatch. --follow needs the aws command with its
    session-manager-plugin.

    \b
    Examples:
      synkti logs i-0abc
      synkti logs i-0abc --follow
      synkti logs --since 15
      synkti logs i-0abc --from last
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
    elif origin is Origin.LAST:
        if node is None:
            raise BadUsage("--from last is the log of one node", "say which: an instance's id")
        _last_log(terminal, fleet, node, lines)
    else:
        _gone(terminal, fleet, node, lines, since, origin)


def _chosen(there: tuple[Node, ...], given: str | None, origin: Origin) -> Node | None:
    """The node whose journal is read; None for CloudWatch. Raises CliError."""
    if origin in (Origin.CLOUDWATCH, Origin.LAST) or (origin is Origin.AUTO and given is None):
        return None
    try:
        return pick(there, given)
    except NotFound:
        if origin is Origin.JOURNAL:
            raise
        return None  # it is gone; CloudWatch may have its lines


def _journal(terminal: Terminal, fleet: Fleet, node: Node, lines: int, *, follow: bool) -> None:
    command = f"journalctl --unit {_UNITS} --lines {lines} --no-pager --output short-iso"
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


def _gone(terminal: Terminal, fleet: Fleet, given: str | None, lines: int, since: int, origin: Origin) -> None:
    try:
        _cloudwatch(terminal, fleet, given, lines, since)
    except NotFound:
        if origin is Origin.CLOUDWATCH or given is None:
            raise
        _last_log(terminal, fleet, given, lines)


def _last_log(terminal: Terminal, fleet: Fleet, instance_id: str, lines: int) -> None:
    """What the node wrote to S3 when it ended. Raises NotFound."""
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
    said = s3.get_object(Bucket=bucket, Key=key)["Body"].read(_LAST_LOG_BYTES).decode(errors="replace")
    told = said.splitlines()[-lines:]
    terminal.say(f"s3://{bucket}/{key}:")
    terminal.document({"cluster": fleet.cluster, "node": instance_id, "from": f"s3://{bucket}/{key}", "lines": told})
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
