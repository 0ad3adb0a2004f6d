"""`synkti stop`: set the number of nodes to zero; `synkti scale N` starts them again."""

from __future__ import annotations

from cli.fleet import open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.scale import resize
from cli.terminal import Terminal


def stop(
    yes: Yes = False, cluster: Cluster = None, region: Region = None, profile: Profile = None, as_json: Json = False
) -> None:
    """Set the number of nodes to zero, after a confirmation; each drains before it ends. Everything else stays.

    Remaining costs: storage of the models bucket, the table and the logs (cents), and the load balancer if there is
    one. Nodes start again by synkti scale, synkti bootstrap, or a deployment that changes the nodes.

    \b
    Examples:
      synkti stop
      synkti stop --yes     # in a script
      synkti scale 3        # start again
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    before, after = resize(terminal, fleet, 0, yes=yes)
    terminal.document({"cluster": fleet.cluster, "desired_before": before.desired, "desired": after.desired})
    if before.desired == 0:
        terminal.line(f"{fleet.cluster} keeps no nodes, as before")
        return
    terminal.line(f"{fleet.cluster} keeps no nodes, was {before.desired}; they drain and end within two minutes")
    again = f"synkti scale {before.desired}"
    balanced = "; the load balancer still costs" if fleet.output("Endpoint") else ""
    terminal.status(f"start again: {again}{balanced}; delete everything: synkti destroy")
