"""`synkti nodes`: list the nodes, watch them, or wait until the fleet has converged."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Group as Lines
from rich.live import Live

from cli.adapters.breaker import read_breaker
from cli.adapters.instances import Group, Instances
from cli.core.nodes import DROPPABLE, TABLE_HEADERS, FleetStatus, row_style, table_row
from cli.core.scaling_group import deployed_size
from cli.errors import BadUsage, Failed, NotFound, TimedOut
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.polling import Clock
from cli.terminal import Terminal, build_table, human_age
from node_agent.contract.names import table_name

CLOCK = Clock()
DEPLOYED = "deployed"
_POLL_INTERVAL_S = 2.0
_FAILURE_WINDOW_S = 3_600.0
_SHOWN_GIVE_UPS = 3
_SUSPENDED_ADVICE = "mend what the nodes report and deploy, or, if the cause was outside of them: synkti resume"


def nodes(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Update the list until Ctrl-C.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until as many nodes are ready as desired.")] = False,
    version: Annotated[
        str | None,
        typer.Option(help="Count nodes of this version only; `deployed`: the stacks' last one.", show_default=False),
    ] = None,
    within: Annotated[int, typer.Option(help="With --wait: seconds, then exit code 8.", min=1, max=86_400)] = 1_800,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """List the nodes by their EC2 tags: state, instance, zone, address, version.

    With --wait --version V it ends when every node is ready on version V and none of another version accepts requests:
    the deployment workflow checks its success this way.

    \b
    Examples:
      synkti nodes
      synkti nodes --watch
      synkti nodes --wait --version deployed --within 3600
      synkti nodes --json | jq -r '.nodes[] | select(.serves) | .public_address'

    \f

    Raises:
        BadUsage: --watch and --wait are both given.
    """
    if watch and wait:
        raise BadUsage("--watch has no end and --wait has one: choose")
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    monitor = FleetMonitor(fleet, wanted_version(fleet, version))
    if watch:
        _watch(terminal, monitor)
    if wait:
        wait_until_converged(terminal, monitor, within_s=within)
    status = monitor.read_status()
    terminal.document({"cluster": fleet.cluster, "region": fleet.account.region, **status.document()})
    print_status(terminal, fleet, status)


def wanted_version(fleet: Fleet, given: str | None) -> str | None:
    """Return the expected version. Raises NotFound where the deployed one is not known."""
    if given != DEPLOYED:
        return given
    deployed = fleet.output("FleetVersion")
    if deployed is None:
        raise NotFound("the stacks do not say which version is deployed", "deploy them again")
    return deployed


class FleetMonitor:
    """Reads the status of one fleet. version: the expected one; None for any."""

    def __init__(self, fleet: Fleet, version: str | None = None) -> None:
        self.fleet = fleet
        self.group = Group(fleet.account.client("autoscaling"), fleet.group_name())
        self._instances = Instances(fleet.account.client("ec2"), fleet.cluster)
        self._version = version
        size = deployed_size(fleet.output)
        self._deployed = size.nodes if size is not None else None

    def read_status(self) -> FleetStatus:
        """Query EC2 and Auto Scaling for the present status. Raises BotoCoreError, ClientError, NotFound."""
        state = self.group.state()
        return FleetStatus(
            self._instances.nodes(), state.size.desired, self._version, self._deployed, state.launches_suspended
        )


def print_status(terminal: Terminal, fleet: Fleet, status: FleetStatus) -> None:
    """Print the table, and the launch failures where the fleet has not converged."""
    terminal.line(f"{fleet.cluster} in {fleet.account.region}: {status.summary}")
    if status.nodes:
        terminal.table(TABLE_HEADERS, _rows(status), [row_style(node) for node in status.nodes], DROPPABLE)
    if status.launches_suspended:
        terminal.status(f"launches are suspended: {_SUSPENDED_ADVICE}", "yellow")
    if not status.is_converged:
        print_give_ups(terminal, fleet)
        print_launch_failures(
            terminal, Group(fleet.account.client("autoscaling"), fleet.group_name()), time.time() - _FAILURE_WINDOW_S
        )


def print_give_ups(terminal: Terminal, fleet: Fleet) -> None:
    """Print which nodes gave up since one has served, and why in their own words."""
    found = read_breaker(fleet.account.client("dynamodb"), table_name(fleet.cluster), fleet.group_name())
    if isinstance(found, str):
        terminal.status(f"why nodes gave up is not known: {found}")
        return
    for each in reversed(found.give_ups[-_SHOWN_GIVE_UPS:] if found is not None else ()):
        terminal.status(f"{each.instance_id} gave up {human_age(time.time() - each.at)} ago: {each.reason}", "yellow")
        terminal.status(f"  its last log: synkti logs {each.instance_id} --from last")


def print_launch_failures(terminal: Terminal, group: Group, since: float) -> None:
    """Print why the group could not launch instances since then (unix seconds)."""
    for trouble in group.launch_failures(since)[:3]:
        terminal.status(f"EC2, {human_age(time.time() - trouble.at)} ago: {trouble.message}", "yellow")
        if trouble.advice:
            terminal.status(f"  {trouble.advice}")


def wait_until_converged(terminal: Terminal, monitor: FleetMonitor, *, within_s: float) -> FleetStatus:
    """Poll until the fleet has converged, and print changes. Raises TimedOut; Failed where launches are suspended."""
    began, give_up_at = time.time(), CLOCK.now() + within_s
    known: dict[str, str] = {}
    last = ""
    with terminal.spinner("waiting for the nodes"):
        while True:
            status = monitor.read_status()
            states = {node.instance_id: node.state.value if node.state else node.ec2_state for node in status.nodes}
            for instance_id, state in states.items():
                if known.get(instance_id) != state:
                    terminal.status(f"{instance_id} {state} ({status.summary})")
            for instance_id in known.keys() - states.keys():
                terminal.status(f"{instance_id} is gone ({status.summary})")
            if states == known and status.summary != last:
                terminal.status(status.summary)
            known, last = states, status.summary
            if status.is_converged:
                return status
            if status.launches_suspended or CLOCK.now() + _POLL_INTERVAL_S > give_up_at:
                break
            CLOCK.sleep(_POLL_INTERVAL_S)
    print_give_ups(terminal, monitor.fleet)
    print_launch_failures(terminal, monitor.group, began - _FAILURE_WINDOW_S)
    if status.launches_suspended:
        raise Failed(f"{status.summary}: waiting cannot help", _SUSPENDED_ADVICE)
    raise TimedOut(
        f"{status.summary} after {within_s:.0f} s",
        "synkti logs NODE prints a node's log; run the command again to continue waiting",
    )


def _rows(status: FleetStatus) -> list[tuple[str, ...]]:
    now = time.time()
    return [table_row(node, now, human_age(now - node.launched_at)) for node in status.nodes]


def _watch(terminal: Terminal, monitor: FleetMonitor) -> None:
    """Update a table on a terminal until Ctrl-C; elsewhere print each new state."""
    fleet = monitor.fleet
    if terminal.out.is_terminal and not terminal.as_json:
        with Live(console=terminal.out, auto_refresh=False) as live:
            while True:
                status = monitor.read_status()
                head = f"{fleet.cluster} in {fleet.account.region}: {status.summary}"
                styles = [row_style(node) for node in status.nodes]
                table = build_table(TABLE_HEADERS, _rows(status), styles, DROPPABLE, terminal.out.width)
                live.update(Lines(head, table), refresh=True)
                CLOCK.sleep(_POLL_INTERVAL_S)
    last: FleetStatus | None = None
    while True:
        status = monitor.read_status()
        if status != last:
            last = status
            if terminal.as_json:
                terminal.json_line({"cluster": fleet.cluster, **status.document()})
            else:
                print_status(terminal, fleet, status)
        CLOCK.sleep(_POLL_INTERVAL_S)
