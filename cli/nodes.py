"""`synkti nodes`: who is there, and whether the fleet is as it should be."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Group as Lines
from rich.live import Live

from cli.adapters.instances import Group, Instances
from cli.core.nodes import HEADERS, FleetStatus, row, style
from cli.errors import BadUsage, NotFound, TimedOut
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.polling import Clock
from cli.terminal import Terminal, human_age, made_table

CLOCK = Clock()
DEPLOYED = "deployed"
_EVERY_S = 2.0
_TROUBLE_S = 3_600.0


def nodes(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again, until Ctrl-C.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until as many nodes are ready as there should be.")] = False,
    version: Annotated[
        str | None,
        typer.Option(help="Of this version; `deployed` for what the stacks have deployed last.", show_default=False),
    ] = None,
    within: Annotated[int, typer.Option(help="With --wait: seconds, then exit code 8.", min=1, max=86_400)] = 1_800,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """The nodes, as their EC2 tags tell: state, instance, zone, address, version.

    With --wait --version V it ends when every node is ready on version V and none of another version takes requests:
    that is how the deployment workflow sees that it has succeeded.

    \b
    Examples:
      synkti nodes
      synkti nodes --watch
      synkti nodes --wait --version deployed --within 3600
      synkti nodes --json | jq -r '.nodes[] | select(.state == "ready") | .public_address'
    """
    if watch and wait:
        raise BadUsage("--watch has no end and --wait has one: choose")
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    looking = Looking(fleet, wanted_version(fleet, version))
    if watch:
        _watch(terminal, looking)
    if wait:
        wait_until_whole(terminal, looking, within_s=within)
    status = looking.status()
    terminal.document({"cluster": fleet.cluster, "region": fleet.account.region, **status.document()})
    show(terminal, fleet, status)


def wanted_version(fleet: Fleet, given: str | None) -> str | None:
    """The version that is asked for. Raises NotFound where the deployed one is not known."""
    if given != DEPLOYED:
        return given
    deployed = fleet.output("FleetVersion")
    if deployed is None:
        raise NotFound("the stacks do not say which version is deployed", "deploy them again")
    return deployed


class Looking:
    """Looks at one fleet, as often as it is asked to."""

    def __init__(self, fleet: Fleet, version: str | None = None) -> None:
        self.fleet = fleet
        self.group = Group(fleet.account.client("autoscaling"), fleet.group_name())
        self._instances = Instances(fleet.account.client("ec2"), fleet.cluster)
        self._version = version

    def status(self) -> FleetStatus:
        return FleetStatus(self._instances.nodes(), self.group.size().desired, self._version)


def show(terminal: Terminal, fleet: Fleet, status: FleetStatus) -> None:
    """The table, and what keeps the fleet from being whole."""
    terminal.line(f"{fleet.cluster} in {fleet.account.region}: {status.sentence}")
    if status.nodes:
        terminal.table(HEADERS, _rows(status), [style(node) for node in status.nodes])
    if not status.is_whole:
        tell_troubles(
            terminal, Group(fleet.account.client("autoscaling"), fleet.group_name()), time.time() - _TROUBLE_S
        )


def tell_troubles(terminal: Terminal, group: Group, since: float) -> None:
    """Why the group could not launch instances since then (unix seconds)."""
    for trouble in group.troubles(since)[:3]:
        terminal.say(f"EC2, {human_age(time.time() - trouble.at)} ago: {trouble.said}", "yellow")
        if trouble.advice:
            terminal.say(f"  {trouble.advice}")


def wait_until_whole(terminal: Terminal, looking: Looking, *, within_s: float) -> FleetStatus:
    """Tells what changes; raises TimedOut."""
    began, give_up_at = time.time(), CLOCK.now() + within_s
    told: dict[str, str] = {}
    last = ""
    with terminal.doing("waiting for the nodes"):
        while True:
            status = looking.status()
            states = {node.instance_id: node.state.value if node.state else node.ec2_state for node in status.nodes}
            for instance_id, state in states.items():
                if told.get(instance_id) != state:
                    terminal.say(f"{instance_id} {state} ({status.sentence})")
            for instance_id in told.keys() - states.keys():
                terminal.say(f"{instance_id} is gone ({status.sentence})")
            if states == told and status.sentence != last:
                terminal.say(status.sentence)
            told, last = states, status.sentence
            if status.is_whole:
                return status
            if CLOCK.now() + _EVERY_S > give_up_at:
                break
            CLOCK.sleep(_EVERY_S)
    tell_troubles(terminal, looking.group, began - _TROUBLE_S)
    raise TimedOut(
        f"{status.sentence} after {within_s:.0f} s",
        "synkti logs NODE says what a node does; run the command again to go on waiting",
    )


def _rows(status: FleetStatus) -> list[tuple[str, ...]]:
    now = time.time()
    return [row(node, now, human_age(now - node.launched)) for node in status.nodes]


def _watch(terminal: Terminal, looking: Looking) -> None:
    """Until Ctrl-C: a table that changes on a terminal; elsewhere the new state whenever there is one."""
    fleet = looking.fleet
    if terminal.out.is_terminal and not terminal.as_json:
        with Live(console=terminal.out, auto_refresh=False) as live:
            while True:
                status = looking.status()
                head = f"{fleet.cluster} in {fleet.account.region}: {status.sentence}"
                table = made_table(HEADERS, _rows(status), [style(node) for node in status.nodes])
                live.update(Lines(head, table), refresh=True)
                CLOCK.sleep(_EVERY_S)
    last: FleetStatus | None = None
    while True:
        status = looking.status()
        if status != last:
            last = status
            if terminal.as_json:
                terminal.json_line({"cluster": fleet.cluster, **status.document()})
            else:
                show(terminal, fleet, status)
        CLOCK.sleep(_EVERY_S)
