"""`synkti destroy`: everything away but what cannot be had again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cli.adapters.buckets import empty
from cli.adapters.stacks import Resource, Stacks
from cli.core.clusters import Stack
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import stack_name

CLOCK = Clock()
_ORDER = ("github", "events", "fleet", "image", "state")
"""Nothing is deleted before what was made on top of it."""

_WITHIN_S = 3_600.0
"""For each stack: the group's nodes drain before they end."""


def destroy(
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Delete the cluster's stacks: nodes, network, Lambdas, checkpoints, keys. Nodes drain before they end.

    The models bucket stays, and so does everything else that the templates retain (the table of records, which is
    protected): they are named before it asks, and a new `synkti bootstrap` takes them over. The CDK's own stack,
    CDKToolkit, stays too: other apps may use it.

    \b
    Examples:
      synkti destroy
      synkti destroy --cluster trial --yes
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    stacks = Stacks(fleet.account.client("cloudformation"))
    ordered = deletion_order(fleet.cluster, fleet.stacks)
    kept = [resource for stack in ordered for resource in stacks.retained(stack.name)]
    terminal.say(f"goes: {', '.join(stack.name for stack in ordered)}")
    for resource in kept:
        terminal.say(f"stays: {resource.physical} ({resource.kind.removeprefix('AWS::')})")
    terminal.confirm(f"Delete the cluster {fleet.cluster!r} in {fleet.account.where}?", yes=yes)
    for stack in ordered:
        _delete(terminal, fleet, stacks, stack)
    terminal.document(
        {
            "cluster": fleet.cluster,
            "deleted": [stack.name for stack in ordered],
            "kept": [{"kind": each.kind, "name": each.physical} for each in kept],
        }
    )
    terminal.line(f"{fleet.cluster} is gone" + (f"; still there: {', '.join(_names(kept))}" if kept else ""))


def deletion_order(cluster: str, stacks: Sequence[Stack]) -> list[Stack]:
    """What depends on others first; stacks of a part that is not known here before all others."""
    parts = {stack_name(cluster, part): number for number, part in enumerate(_ORDER)}
    return sorted(stacks, key=lambda stack: (parts.get(stack.name, -1), stack.name))


def _delete(terminal: Terminal, fleet: Fleet, stacks: Stacks, stack: Stack) -> None:
    if (bucket := stack.outputs.get("CheckpointsBucket")) is not None:
        # Here and not before: nodes that end leave their last log there.
        empty(fleet.account.client("s3"), bucket)
    every_s = 0.2 if fleet.account.embedded else 5.0
    began = time.monotonic()
    with terminal.doing(f"deleting {stack.name}"):
        stacks.delete(stack.name, within_s=_WITHIN_S, every_s=every_s, clock=CLOCK, tell=terminal.say)
    terminal.say(f"{stack.name} is deleted ({time.monotonic() - began:.0f} s)")


def _names(kept: Sequence[Resource]) -> list[str]:
    return [each.physical or each.logical for each in kept]
