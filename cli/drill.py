"""`synkti drill`: rehearse an interruption before EC2 does it for real; `synkti drill first-day` is beside it."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.adapters.drills import EventDrills, Interruptions
from cli.adapters.instances import Instances
from cli.core.nodes import Node, select_node
from cli.drill_first_day import first_day
from cli.errors import BadUsage, Failed
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.terminal import Terminal
from node_agent.contract.aws_events import INTERRUPTION_EVENT, REBALANCE_EVENT

_POLICY = "docs/gitops.md, under Drills, has the role and its policy"


class _DrillGroup(TyperGroup):
    """The group `drill`, whose first word may be a node: `synkti drill i-0abc` is `synkti drill node i-0abc`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["node", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=_DrillGroup,
    no_args_is_help=True,
    help="Rehearse the loss of a node: synkti drill NODE, or the checks of a new fleet: synkti drill first-day.",
)


def node_drill(
    node: Annotated[str, typer.Argument(metavar="NODE", help="An instance's id, the beginning of one, or an address.")],
    fis: Annotated[
        bool, typer.Option("--fis", help="Interrupt the instance for real, by AWS's Fault Injection Service.")
    ] = False,
    fis_role: Annotated[
        str | None,
        typer.Option(
            metavar="ARN", envvar="SYNKTI_FIS_ROLE", help="With --fis: the role of the experiment.", show_default=False
        ),
    ] = None,
    rebalance: Annotated[bool, typer.Option("--rebalance", help="Send a rebalance recommendation instead.")] = False,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Rehearse the loss of a node.

    By default an event like EC2's is sent to the event bus, with a source of its own. It tests the rules, the Lambdas,
    the tags and the records; the node does not receive it, since nodes read EC2's metadata only. It keeps serving, and
    writes its own tags again when it next reads them: about a minute later in a fleet of a few nodes. It needs
    drills = true in synkti.toml, because every principal that may put events could use it.

    With --fis the instance is interrupted for real: EC2's notice appears in its metadata, the node drains, two minutes
    later the instance ends, and the group replaces it. Spot instances only.

    \b
    Examples:
      synkti drill i-0abc
      synkti drill i-0abc --rebalance --yes
      synkti drill i-0abc --fis --fis-role arn:aws:iam::123456789012:role/synkti-drills

    \f

    Raises:
        BadUsage: --fis and --rebalance are both given.
    """
    if fis and rebalance:
        raise BadUsage("--fis sends an interruption; --rebalance is for events only")
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    chosen = select_node(Instances(fleet.account.client("ec2"), fleet.cluster).nodes(), node)
    if fis:
        _interrupt(terminal, fleet, chosen, fis_role, yes=yes)
    else:
        _event(terminal, fleet, chosen, REBALANCE_EVENT if rebalance else INTERRUPTION_EVENT, yes=yes)


def _event(terminal: Terminal, fleet: Fleet, node: Node, kind: str, *, yes: bool) -> None:
    drills = EventDrills(fleet.account.client("events"), fleet.cluster)
    if not drills.is_enabled():
        raise Failed(
            f"drills are off in {fleet.cluster}: its rules match events from EC2 only",
            "set drills = true in synkti.toml and deploy; or --fis for a real interruption",
        )
    terminal.confirm(f"Send a drill's {kind} for {node.instance_id} ({node.instance_type})?", yes=yes)
    detail = {"instance-action": "terminate"} if kind == INTERRUPTION_EVENT else {}
    event_id = drills.send(kind, node.instance_id, node.zone, detail)
    terminal.document(
        {"cluster": fleet.cluster, "node": node.instance_id, "event": kind, "event_id": event_id, "by": "eventbridge"}
    )
    terminal.line(f"{kind} for {node.instance_id} is on the bus ({event_id})")
    terminal.status("the Lambda writes tags and records within seconds (synkti nodes, synkti events)")
    terminal.status("the node keeps serving, and sets its tags back within a minute or two")


def _interrupt(terminal: Terminal, fleet: Fleet, node: Node, role: str | None, *, yes: bool) -> None:
    if fleet.account.is_embedded:
        raise Failed("the embedded AWS has no Fault Injection Service", "leave out --fis")
    if node.purchase_option != "spot":
        raise Failed(
            f"{node.instance_id} is {node.purchase_option}: only spot instances are interrupted", "choose another node"
        )
    role = role or fleet.output("DrillRole")
    if not role:
        raise BadUsage("--fis needs the role of the Fault Injection Service: --fis-role ARN", _POLICY)
    terminal.confirm(f"Have EC2 take {node.instance_id} ({node.instance_type}) in two minutes?", yes=yes)
    interruptions = Interruptions(fleet.account.client("fis"), fleet.cluster)
    experiment = interruptions.interrupt(fleet.account.instance_arn(node.instance_id), role, str(uuid.uuid4()))
    terminal.document({"cluster": fleet.cluster, "node": node.instance_id, "experiment": experiment, "by": "fis"})
    terminal.line(f"{node.instance_id} is taken in two minutes (experiment {experiment})")
    terminal.status("watch it drain and be replaced: synkti nodes --watch")


app.command("node", short_help="Rehearse the loss of one node; the word node may be left out.")(node_drill)
app.command("first-day", short_help="Check on a real fleet what no emulator can show.")(first_day)
