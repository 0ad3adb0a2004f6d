"""`synkti connect`: open a shell on a node, or forward one of its ports, by Systems Manager: no SSH, no open port."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from cli.adapters.instances import Instances
from cli.adapters.ssm import exec_replace, session_command
from cli.core.nodes import select_node
from cli.errors import BadUsage
from cli.fleet import open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal

_FORWARD = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")

NodeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NODE",
        help="An instance's id, the beginning of one, or an address; not needed if there is only one node.",
        show_default=False,
    ),
]


def connect(
    node: NodeArgument = None,
    forward: Annotated[
        str | None,
        typer.Option(
            metavar="LOCAL:REMOTE", help="Forward a local port to one of the node instead.", show_default=False
        ),
    ] = None,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Open a shell on a node, or forward one of its ports to this machine.

    It runs the aws command with its session-manager-plugin; both have to be installed. With --json the command is
    printed, not run.

    \b
    Examples:
      synkti connect i-0abc
      synkti connect i-0abc --forward 8000:8000     # then http://127.0.0.1:8000/v1
    """
    terminal = Terminal(as_json)
    ports = _parse_ports(forward) if forward else None
    fleet = open_fleet(cluster, region, profile)
    chosen = select_node(Instances(fleet.account.client("ec2"), fleet.cluster).nodes(), node)
    document, parameters = (
        ("AWS-StartPortForwardingSession", {"localPortNumber": [ports[0]], "portNumber": [ports[1]]})
        if ports
        else (None, None)
    )
    command = session_command(fleet.account, chosen.instance_id, document, parameters)
    if as_json:
        terminal.document({"cluster": fleet.cluster, "node": chosen.instance_id, "command": command})
        return
    terminal.status(
        f"{chosen.instance_id} ({chosen.instance_type}, {chosen.zone})" + (f", port {forward}" if ports else "")
    )
    exec_replace(command, fleet.account.environ())


def _parse_ports(text: str) -> tuple[str, str]:
    """Parse local and remote port. Raises BadUsage."""
    match = _FORWARD.fullmatch(text)
    local, remote = (match[1], match[2] or match[1]) if match else ("", "")
    if not match or not (0 < int(local) < 65_536 and 0 < int(remote) < 65_536):
        raise BadUsage(f"--forward {text!r} is no pair of ports", "such as --forward 8000:8000")
    return local, remote
