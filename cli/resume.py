"""`synkti resume`: let the group launch nodes again, after several in a row gave up."""

from __future__ import annotations

from cli.adapters.instances import Group
from cli.fleet import open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal


def resume(cluster: Cluster = None, region: Region = None, profile: Profile = None, as_json: Json = False) -> None:
    """Let the Auto Scaling group launch nodes again.

    After three nodes in a row that could not serve, launches are suspended, so that no more instances are paid for in
    vain. A deployment of another version resumes them by itself within five minutes. Use this command where the cause
    was outside of the nodes, such as a missing model. If three more nodes give up, launches are suspended again.

    \b
    Examples:
      synkti nodes         # why the last nodes gave up
      synkti resume
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    group = Group(fleet.account.client("autoscaling"), fleet.group_name())
    suspended = group.state().launches_suspended
    if suspended:
        group.resume_launches()
    terminal.document({"cluster": fleet.cluster, "resumed": suspended})
    if suspended:
        terminal.line(f"{fleet.cluster} launches nodes again; synkti nodes --wait waits for them")
    else:
        terminal.line(f"{fleet.cluster} launches nodes, as before")
