"""`synkti events`: launches, interruptions, drains and hand-offs, as they happened."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from cli.adapters.breaker import read_breaker
from cli.adapters.instances import Group, Instances
from cli.adapters.records import Records
from cli.adapters.results import result_of
from cli.core.fleet_events import (
    DROPPABLE,
    TABLE_HEADERS,
    FleetEvent,
    events_of_drains,
    events_of_group,
    events_of_records,
    in_order,
)
from cli.core.result import Unavailable
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import table_name

CLOCK = Clock()
_POLL_INTERVAL_S = 5.0
_MAX_MINUTES = 7 * 24 * 60


def events(
    since: Annotated[
        int, typer.Option(metavar="MINUTES", help="How far to look back.", min=1, max=_MAX_MINUTES)
    ] = 1440,
    node: Annotated[
        str | None, typer.Option("--node", metavar="ID", help="Only of this instance.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new events until Ctrl-C.")] = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """List launches, interruptions, drains and hand-offs of the last day, in the order of time.

    They are read from the records that nodes and Lambdas keep for a week, and from the Auto Scaling group. A launch is
    listed while its instance runs. Times of EC2's events have whole seconds. With --json and --follow each event is a
    line.

    \b
    Examples:
      synkti events
      synkti events --since 60 --node i-0abc
      synkti events --follow
      synkti events --json | jq -r '.events[] | select(.event == "interruption-notice") | .node'
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    found, gaps = _read(fleet, since, node)
    if follow:
        _follow(terminal, fleet, since, node, found)
        return
    terminal.document(
        {
            "cluster": fleet.cluster,
            "region": fleet.account.region,
            "events": [event.document() for event in found],
            "not_read": list(gaps),
        }
    )
    count = f"{len(found)} events" if len(found) != 1 else "1 event"
    terminal.line(f"{fleet.cluster} in {fleet.account.region}: {count} in {since} minutes")
    if found:
        terminal.table(TABLE_HEADERS, [event.row for event in found], droppable=DROPPABLE)
    for gap in gaps:
        terminal.status(f"not read: {gap}", "yellow")


def _follow(terminal: Terminal, fleet: Fleet, since: int, node: str | None, found: tuple[FleetEvent, ...]) -> None:
    """Print events, and then new ones, until Ctrl-C."""
    known: set[FleetEvent] = set()
    while True:
        for event in found:
            if event not in known:
                known.add(event)
                if terminal.as_json:
                    terminal.json_line(event.document())
                else:
                    terminal.line("  ".join(event.row))
        CLOCK.sleep(_POLL_INTERVAL_S)
        found, _ = _read(fleet, since, node)


def _read(fleet: Fleet, minutes: int, node: str | None) -> tuple[tuple[FleetEvent, ...], tuple[str, ...]]:
    """Return the events, and why some of them could not be read."""
    since, account = time.time() - minutes * 60, fleet.account
    group = Group(account.client("autoscaling"), fleet.group_name())
    dynamodb, table = account.client("dynamodb"), table_name(fleet.cluster)
    records = Records(dynamodb, table)
    nodes = Instances(account.client("ec2"), fleet.cluster).nodes()
    of_nodes = result_of(records.of_nodes)
    capacity = result_of(lambda: records.capacity(group.name))
    failures = result_of(lambda: group.launch_failures(since))
    breaker = read_breaker(dynamodb, table, group.name)
    found = events_of_group(
        nodes,
        () if isinstance(failures, Unavailable) else failures,
        None if isinstance(capacity, Unavailable) else capacity,
        None if isinstance(breaker, str) else breaker,
    )
    gaps = [each.reason for each in (of_nodes, capacity, failures) if isinstance(each, Unavailable)]
    gaps += [breaker] if isinstance(breaker, str) else []
    if not isinstance(of_nodes, Unavailable):
        found += events_of_records(of_nodes.nodes) + events_of_drains(of_nodes.drains)
        gaps += [] if of_nodes.is_complete else ["the table is too large to be read whole; some nodes are missing"]
    wanted = [event for event in found if node is None or event.node == node]
    return in_order(wanted, since), tuple(dict.fromkeys(gaps))
