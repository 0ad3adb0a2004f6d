"""`synkti shut-out`: exclude a node from its fleet, because it may be in someone else's hands."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.adapters.instances import Instances
from cli.core.nodes import select_node
from cli.errors import BadUsage
from cli.fleet import open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.terminal import Terminal


def shut_out(
    node: Annotated[str, typer.Argument(metavar="NODE", help="An instance's id, the beginning of one, or an address.")],
    terminate: Annotated[
        bool, typer.Option("--terminate", help="Terminate the instance, too, without a drain.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let the node in again.")] = False,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Exclude a node: within a minute no other node sends it anything, or accepts anything from it.

    The command tags the instance; no node's role may write this tag. The other nodes see it when they read EC2's tags
    next: they continue the node's streams elsewhere, and ignore its messages. The node itself stops serving. Without
    --terminate the instance keeps running, for an examination. It still has its role: it can read the cluster's key
    and the buckets until it is terminated. After that, replace the key: synkti cluster-key rotate.

    \b
    Examples:
      synkti shut-out i-0abc
      synkti shut-out i-0abc --terminate
      synkti shut-out i-0abc --undo

    \f

    Raises:
        BadUsage: --terminate and --undo are both given.
    """
    if terminate and undo:
        raise BadUsage("--terminate ends a node and --undo lets it in again: choose")
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    instances = Instances(fleet.account.client("ec2"), fleet.cluster)
    chosen = select_node(instances.nodes(), node)
    if not undo:
        what = "and terminate it" if terminate else "it keeps running"
        terminal.confirm(f"Shut {chosen.instance_id} ({chosen.instance_type}) out, {what}?", yes=yes)
    instances.shut_out(chosen.instance_id, undo=undo)
    if terminate:
        instances.terminate(chosen.instance_id)
    terminal.document(
        {"cluster": fleet.cluster, "node": chosen.instance_id, "shut_out": not undo, "terminated": terminate}
    )
    if undo:
        terminal.line(f"{chosen.instance_id} is let in again; restart its agent, or drain it")
        return
    terminal.line(f"{chosen.instance_id} is shut out; the other nodes see it within a minute")
    if terminate:
        terminal.status("its instance ends, and another takes its place; then: synkti cluster-key rotate")
    else:
        terminal.status(f"it still has its role: synkti shut-out {chosen.instance_id} --terminate")
