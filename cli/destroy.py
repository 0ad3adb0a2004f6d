"""`synkti destroy`: delete the cluster's stacks; models and records are retained."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cli.adapters.buckets import empty
from cli.adapters.stacks import Resource, Stacks
from cli.core.clusters import BUSY_ADVICE, Stack, busy_stacks
from cli.errors import Failed
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import stack_name

CLOCK = Clock()
_DELETION_ORDER = ("github", "events", "fleet", "image", "model", "state")
"""A stack is deleted before those that it depends on."""

_STACK_TIMEOUT_S = 3_600.0
"""For each stack: the group's nodes drain before they end."""


def destroy(
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Delete the cluster's stacks: nodes, network, Lambdas, checkpoints, the peers' key. Nodes drain before they end.

    The models bucket, the table of records and the clients' keys are retained: they are listed before the confirmation,
    and a new `synkti bootstrap` imports them. The CDK's own stack, CDKToolkit, remains too: other apps may use it.

    \b
    Examples:
      synkti destroy
      synkti destroy --cluster trial --yes

    \f

    Raises:
        Failed: another operation on the stacks is under way.
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    # A deletion that is under way is this command's own, stopped before: it continues.
    if busy := busy_stacks(stack for stack in fleet.stacks if stack.status != "DELETE_IN_PROGRESS"):
        raise Failed(f"another operation is under way: {', '.join(busy)}", BUSY_ADVICE)
    stacks = Stacks(fleet.account.client("cloudformation"))
    ordered = deletion_order(fleet.cluster, fleet.stacks)
    kept = [resource for stack in ordered for resource in stacks.retained(stack.name)]
    terminal.status(f"delete: {', '.join(stack.name for stack in ordered)}")
    for resource in kept:
        terminal.status(f"retain: {resource.physical_id} ({resource.kind.removeprefix('AWS::')})")
    terminal.confirm(f"Delete the cluster {fleet.cluster!r} in {fleet.account.description}?", yes=yes)
    for stack in ordered:
        _delete(terminal, fleet, stacks, stack)
    terminal.document(
        {
            "cluster": fleet.cluster,
            "deleted": [stack.name for stack in ordered],
            "kept": [{"kind": each.kind, "name": each.physical_id} for each in kept],
        }
    )
    terminal.line(f"{fleet.cluster} is deleted" + (f"; retained: {', '.join(_names(kept))}" if kept else ""))


def deletion_order(cluster: str, stacks: Sequence[Stack]) -> list[Stack]:
    """Return dependent stacks first; stacks of unknown parts before all others."""
    parts = {stack_name(cluster, part): number for number, part in enumerate(_DELETION_ORDER)}
    return sorted(stacks, key=lambda stack: (parts.get(stack.name, -1), stack.name))


def _delete(terminal: Terminal, fleet: Fleet, stacks: Stacks, stack: Stack) -> None:
    if (bucket := stack.outputs.get("CheckpointsBucket")) is not None:
        # Not earlier: nodes that end store their last log there.
        empty(fleet.account.client("s3"), bucket)
    every_s = 0.2 if fleet.account.is_embedded else 5.0
    began = time.monotonic()
    with terminal.spinner(f"deleting {stack.name}"):
        stacks.delete(stack.name, within_s=_STACK_TIMEOUT_S, every_s=every_s, clock=CLOCK, report=terminal.status)
    terminal.status(f"{stack.name} is deleted ({time.monotonic() - began:.0f} s)")


def _names(kept: Sequence[Resource]) -> list[str]:
    return [each.physical_id or each.logical_id for each in kept]
