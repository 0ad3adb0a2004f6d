"""`synkti cluster-key`: show the key with which nodes sign their messages, and rotate it while they serve."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated

import typer

from cli.adapters.cluster_key_secret import ClusterKeySecret
from cli.adapters.instances import Instances
from cli.core import cluster_key as core
from cli.core.nodes import Node
from cli.errors import TimedOut
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import cluster_key_secret_name

CLOCK = Clock()
_POLL_INTERVAL_S = 10.0
_KEY_BYTES = 32

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def cluster_key() -> None:
    """Show or rotate the key with which the nodes of a cluster sign their messages to each other."""


@app.command()
def status(cluster: Cluster = None, region: Region = None, profile: Profile = None, as_json: Json = False) -> None:
    """Show which keys are valid, by their ids, and which nodes have not read the newest.

    \b
    Examples:
      synkti cluster-key status
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    keys, nodes = _secret(fleet).read(), Instances(fleet.account.client("ec2"), fleet.cluster).nodes()
    newest = keys.next or keys.current
    late, foreign = core.not_accepting(nodes, newest.key_id), core.foreign(nodes, keys.key_ids)
    terminal.document(
        {
            "cluster": fleet.cluster,
            "current": keys.current.key_id,
            "next": keys.next.key_id if keys.next else None,
            "previous": keys.previous.key_id if keys.previous else None,
            "nodes_without_newest": late,
            "nodes_with_foreign_key": foreign,
        }
    )
    terminal.line(f"{fleet.cluster} in {fleet.account.region}: {core.describe(keys)}")
    if late:
        terminal.line(f"these nodes do not accept {newest.key_id} yet: {', '.join(late)}")
    if foreign:
        terminal.line(f"these nodes accept none of the keys, and are a fleet of their own: {', '.join(foreign)}")


@app.command()
def rotate(
    within: Annotated[
        int, typer.Option(help="Seconds that all nodes may take to read a step, then exit code 8.", min=1, max=86_400)
    ] = 1_800,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Replace the key. Nodes keep serving: no node leaves, and no stream breaks.

    There are three steps: all nodes accept a new key; all sign with it; the old one is not valid any more. Each step
    waits until every node has read the one before, which takes some minutes. Where the command is stopped, or a node
    reads nothing, both keys stay valid, and the same command continues. Nodes that were shut out are not waited for.

    \b
    Examples:
      synkti cluster-key rotate
      synkti cluster-key status
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    secret = _secret(fleet)
    keys = secret.read()
    old = keys.previous or keys.current
    terminal.confirm(f"Replace the key of {fleet.cluster} ({core.describe(keys)})?", yes=yes)
    if keys.previous is None:
        if keys.next is None:
            keys = keys.begin(secrets.token_hex(_KEY_BYTES).encode())
            secret.write(keys)
        newest = keys.accepted[1].key_id
        terminal.status(f"1 of 3: nodes are to accept {newest}, too")
        _wait(fleet, terminal, lambda nodes: core.not_accepting(nodes, newest), within)
        keys = keys.promote()
        secret.write(keys)
    current = keys.current.key_id
    terminal.status(f"2 of 3: nodes are to sign with {current}")
    _wait(fleet, terminal, lambda nodes: core.not_signing(nodes, current), within)
    secret.write(keys.finish())
    terminal.status(f"3 of 3: {old.key_id} is not valid any more; nodes forget it within minutes")
    terminal.document({"cluster": fleet.cluster, "current": current, "replaced": old.key_id})
    terminal.line(f"{fleet.cluster} signs with {current}; {old.key_id} was replaced")


def _secret(fleet: Fleet) -> ClusterKeySecret:
    return ClusterKeySecret(fleet.account.client("secretsmanager"), cluster_key_secret_name(fleet.cluster))


def _wait(fleet: Fleet, terminal: Terminal, missing: Callable[[tuple[Node, ...]], list[str]], within: int) -> None:
    """Wait until no node is missing. Raises TimedOut with the nodes that still are."""
    instances = Instances(fleet.account.client("ec2"), fleet.cluster)
    give_up_at = CLOCK.now() + within
    shown: list[str] = []
    while late := missing(instances.nodes()):
        if CLOCK.now() + _POLL_INTERVAL_S > give_up_at:
            raise TimedOut(
                f"within {within} s these nodes have not read the key: {', '.join(late)}",
                "both keys stay valid; drain or terminate these nodes, and run the command again to continue",
            )
        if late != shown:
            terminal.status(f"waits for {', '.join(late)}")
            shown = late
        CLOCK.sleep(_POLL_INTERVAL_S)
