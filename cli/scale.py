"""`synkti scale` and what `synkti stop` shares with it: how many nodes the fleet keeps, until the next deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.adapters.instances import Group
from cli.core.scaling_group import MAX_NODES, Size, resized
from cli.fleet import Fleet, open_fleet
from cli.nodes import Looking, wait_until_whole
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal


def scale(
    nodes: Annotated[int, typer.Argument(metavar="N", help="How many nodes there should be.", min=0, max=MAX_NODES)],
    wait: Annotated[bool, typer.Option("--wait", help="Until they are ready.")] = False,
    within: Annotated[int, typer.Option(help="With --wait: seconds, then exit code 8.", min=1, max=86_400)] = 1_800,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Tell the Auto Scaling group to keep N nodes. A node that is one too many drains first: no stream is lost.

    It holds until the next deployment, which says again what synkti.toml says.

    \b
    Examples:
      synkti scale 5
      synkti scale 5 --wait
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    before, after = resize(fleet, nodes)
    same = before.desired == after.desired
    status = wait_until_whole(terminal, Looking(fleet), within_s=within) if wait else None
    terminal.document(
        {
            "cluster": fleet.cluster,
            "desired_before": before.desired,
            "desired": after.desired,
            **({"ready": len(status.ready)} if status else {}),
        }
    )
    terminal.line(
        f"{fleet.cluster} keeps {after.desired} nodes" + (" as before" if same else f", was {before.desired}")
    )
    if not same:
        terminal.say(f"the next deployment keeps as many as synkti.toml says; to stay with it: nodes = {nodes}")


def resize(fleet: Fleet, nodes: int) -> tuple[Size, Size]:
    """The group's size before and after; it is told only where that is another."""
    group = Group(fleet.account.client("autoscaling"), fleet.group_name())
    before = group.size()
    after = resized(before, nodes)
    if after != before:
        group.resize(after)
    return before, after
