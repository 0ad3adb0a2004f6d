"""`synkti drain`: drain one node and terminate its instance; no stream is lost."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.adapters.instances import Group, Instances
from cli.core.nodes import select_node
from cli.fleet import open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.terminal import Terminal


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="An instance's id, the beginning of one, or an address.")],
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Reduce the fleet by one node instead of replacing it.")
    ] = False,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Drain one node and terminate its instance.

    The Auto Scaling group terminates the instance, and waits while it drains: new requests go to other nodes at once,
    streams finish on the node or continue on others. By default the group replaces the node.

    \b
    Examples:
      synkti drain i-0abc
      synkti drain i-0abc --shrink
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    instances = Instances(fleet.account.client("ec2"), fleet.cluster)
    chosen = select_node(instances.nodes(), node)
    group = Group(fleet.account.client("autoscaling"), fleet.group_name())
    what = "one node less" if shrink else "another takes its place"
    terminal.confirm(f"Drain and end {chosen.instance_id} ({chosen.instance_type}); {what}?", yes=yes)
    if fleet.account.is_embedded:
        if shrink:
            group.make_room()
        instances.request_emulated_end(chosen.instance_id, shrink=shrink)
    else:
        group.terminate(chosen.instance_id, shrink=shrink)
    terminal.document({"cluster": fleet.cluster, "node": chosen.instance_id, "replaced": not shrink})
    terminal.line(f"{chosen.instance_id} drains and ends; {what}")
    terminal.status("watch it: synkti nodes --watch")
