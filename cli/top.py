"""`synkti top`: each node's load, streams and tokens a second, live."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

import typer
from rich.console import Group as Lines
from rich.live import Live

from cli.adapters.node_metrics import NodeMetrics
from cli.adapters.ssm import Commands
from cli.api_key import api_key_headers
from cli.core.nodes import FleetStatus, row_style
from cli.core.top import DROPPABLE, TABLE_HEADERS, Sample, document, summary, table_row, unread
from cli.fleet import Fleet, open_fleet
from cli.nodes import FleetMonitor
from cli.options import Cluster, Json, Profile, Region
from cli.polling import Clock
from cli.terminal import Terminal, build_table

CLOCK = Clock()


def top(
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.5, max=60)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print one table, and end.")] = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Show each node's clients' streams, tokens per second, and requests at its engine, until Ctrl-C.

    The figures are those of the nodes' metrics. They are read from the admin listeners where these can be reached from
    here (metrics_cidrs, and a key with the scope metrics in SYNKTI_API_KEY), else by a command of Systems Manager on
    each node, which takes seconds. Where standard output is no terminal, one table is printed.

    \b
    Examples:
      synkti top
      synkti top --every 5
      synkti top --json | jq '[.nodes[].streams] | add'
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    monitor, metrics = FleetMonitor(fleet), node_metrics(fleet)
    live = terminal.out.is_terminal and not once and not as_json
    with terminal.spinner("reading the nodes' metrics"):
        status = monitor.read_status()
        before: Sample | None = Sample(CLOCK.now(), metrics.read(status.nodes))
        if not live:
            CLOCK.sleep(every)
            status = monitor.read_status()
            sample = Sample(CLOCK.now(), metrics.read(status.nodes))
    if not live:
        _print(terminal, fleet, status, before, sample)
        return
    with Live(console=terminal.out, auto_refresh=False) as screen:
        while True:
            CLOCK.sleep(every)
            status = monitor.read_status()
            sample = Sample(CLOCK.now(), metrics.read(status.nodes))
            screen.update(_screen(terminal, fleet, status, before, sample), refresh=True)
            before = sample


def node_metrics(fleet: Fleet) -> NodeMetrics:
    """Return what reads the metrics of a fleet's nodes; the embedded AWS has no Systems Manager."""
    run = None if fleet.account.is_embedded else Commands(fleet.account.client("ssm", 32), CLOCK).run
    return NodeMetrics(api_key_headers(os.environ), run)


def _print(terminal: Terminal, fleet: Fleet, status: FleetStatus, before: Sample | None, sample: Sample) -> None:
    terminal.document(
        {
            "cluster": fleet.cluster,
            "region": fleet.account.region,
            "desired": status.desired,
            "nodes": document(status.nodes, before, sample),
            "unread": list(unread(status.nodes, sample)),
        }
    )
    terminal.line(_head(fleet, status, before, sample))
    if status.nodes:
        terminal.table(TABLE_HEADERS, *_rows(status, before, sample), DROPPABLE)
    for line in unread(status.nodes, sample):
        terminal.status(f"not read: {line}", "yellow")


def _screen(terminal: Terminal, fleet: Fleet, status: FleetStatus, before: Sample | None, sample: Sample) -> Any:
    table = build_table(TABLE_HEADERS, *_rows(status, before, sample), DROPPABLE, terminal.out.width)
    lines = [f"not read: {line}" for line in unread(status.nodes, sample)]
    return Lines(_head(fleet, status, before, sample), table, *lines)


def _head(fleet: Fleet, status: FleetStatus, before: Sample | None, sample: Sample) -> str:
    return f"{fleet.cluster} in {fleet.account.region}: {summary(status.nodes, status.desired, before, sample)}"


def _rows(status: FleetStatus, before: Sample | None, sample: Sample) -> tuple[list[tuple[str, ...]], list[str]]:
    now = time.time()
    rows = [table_row(node, before, sample, now) for node in status.nodes]
    return rows, [row_style(node) for node in status.nodes]
