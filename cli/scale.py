"""`synkti scale`: set the number of nodes, with the deployed bounds. `synkti stop` uses the same functions."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.adapters.instances import Group
from cli.core.scaling_group import MAX_NODES, count_nodes, deployed_size, shrink_question, with_desired
from cli.fleet import Fleet, open_fleet
from cli.nodes import FleetMonitor, wait_until_converged
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.terminal import Terminal
from node_agent.contract.group_size import GroupSize


def scale(
    nodes: Annotated[int, typer.Argument(metavar="N", help="The desired number of nodes.", min=0, max=MAX_NODES)],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are ready.")] = False,
    within: Annotated[int, typer.Option(help="With --wait: seconds, then exit code 8.", min=1, max=86_400)] = 1_800,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Set the Auto Scaling group's desired size. Nodes drain before they end: no stream is lost.

    Fewer nodes than now need a confirmation.

    synkti bootstrap sets the size of synkti.toml again, and so does a deployment that changes the nodes.

    \b
    Examples:
      synkti scale 5
      synkti scale 5 --wait
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    before, after = resize(terminal, fleet, nodes, yes=yes)
    same = before.desired == after.desired
    status = wait_until_converged(terminal, FleetMonitor(fleet), within_s=within) if wait else None
    terminal.document(
        {
            "cluster": fleet.cluster,
            "desired_before": before.desired,
            "desired": after.desired,
            **({"ready": len(status.ready)} if status else {}),
        }
    )
    terminal.line(
        f"{fleet.cluster} keeps {count_nodes(after.desired)}" + (" as before" if same else f", was {before.desired}")
    )
    if not same:
        terminal.status(f"until synkti bootstrap, or a deployment that changes the nodes; to stay: nodes = {nodes}")


def resize(terminal: Terminal, fleet: Fleet, nodes: int, *, yes: bool) -> tuple[GroupSize, GroupSize]:
    """Resize the group if needed, after a confirmation where nodes end.

    Args:
        terminal: where the question is shown.
        fleet: the cluster.
        nodes: the desired number.
        yes: whether the confirmation is given already.

    Returns:
        The group's size before and after.

    Raises Declined as `Terminal.confirm`, AWS's errors as `Group`.
    """
    group = Group(fleet.account.client("autoscaling"), fleet.group_name())
    before = group.size()
    after = with_desired(before, nodes, deployed_size(fleet.output))
    if (question := shrink_question(fleet.cluster, before.desired, after.desired)) is not None:
        terminal.confirm(question, yes=yes)
    if after != before:
        group.resize(after)
    return before, after
