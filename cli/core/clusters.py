"""Choose the cluster that a command works on.

Rules:

* a cluster is a set of stacks that are tagged SynktiCluster=<cluster> and named after it;
* --cluster, SYNKTI_CLUSTER or synkti.toml name the cluster;
* without a name the only cluster is used; where there are several, the command fails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cli.errors import Ambiguous, NotFound


@dataclass(frozen=True)
class Stack:
    """A stack as CloudFormation describes it."""

    name: str
    status: str
    cluster: str | None
    """The value of its tag."""

    outputs: Mapping[str, str]
    changed_at: float
    """Its creation or last update, in unix seconds."""

    @property
    def exists(self) -> bool:
        """False for a deleted stack, which CloudFormation still describes for a while."""
        return self.status != "DELETE_COMPLETE"

    @property
    def is_deployed(self) -> bool:
        """True where its resources exist; a first creation that was rolled back has none."""
        return self.status.endswith("_COMPLETE") and self.status not in ("ROLLBACK_COMPLETE", "DELETE_COMPLETE")


BUSY_ADVICE = "wait until it has ended (synkti doctor shows it), then run the command again; nothing was changed"


def busy_stacks(stacks: Iterable[Stack]) -> tuple[str, ...]:
    """Return the names of the stacks that CloudFormation creates, updates or deletes now."""
    # REVIEW_IN_PROGRESS: a change set was created and not executed; nothing is under way.
    return tuple(
        stack.name for stack in stacks if stack.status.endswith("_IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS"
    )


def clusters_of(stacks: Iterable[Stack]) -> dict[str, tuple[Stack, ...]]:
    """Return each cluster's stacks in the order of their last change; other stacks are ignored."""
    found: dict[str, list[Stack]] = {}
    for stack in sorted(stacks, key=lambda stack: (stack.changed_at, stack.name)):
        if stack.cluster and stack.name.startswith(f"{stack.cluster}-") and stack.exists:
            found.setdefault(stack.cluster, []).append(stack)
    return {cluster: tuple(its) for cluster, its in sorted(found.items())}


def choose(named: str | None, found: Collection[str], where: str) -> str:
    """Return the cluster to use. named: by the user; found: existing ones; where: for the message. Raises CliError."""
    if named is not None:
        if named not in found:
            there = f"; there is {_listed(found)}" if found else ""
            raise NotFound(f"there is no cluster {named!r} in {where}{there}", "synkti bootstrap makes one")
        return named
    if not found:
        raise NotFound(
            f"there is no cluster in {where}", "synkti bootstrap makes one; --region and --profile look elsewhere"
        )
    if len(found) > 1:
        raise Ambiguous(f"there are several clusters in {where}: {_listed(found)}", "say which with --cluster")
    return next(iter(found))


def choose_for_deployment(named: str | None, default: str, found: Collection[str], where: str) -> str:
    """Return the cluster to deploy: the named one, else the default if there is no other. Raises Ambiguous."""
    if named is not None:
        return named
    if not found or set(found) == {default}:
        return default
    raise Ambiguous(
        f"no cluster is named, and {where} has {_listed(found)}",
        f"say which with --cluster: one of these, or a new one such as {default!r}",
    )


_START_STATUSES = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")


def first_failure(events: Iterable[Mapping[str, Any]]) -> str:
    """Return what failed first in a stack's last operation, and why; empty where nothing did.

    events: as DescribeStackEvents gives them, the newest first. Later failures are mostly "cancelled" for the first.
    """
    failure = own_failure = ""
    for event in events:
        status = str(event.get("ResourceStatus", ""))
        reason = f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason') or 'no reason given'}"
        if event.get("ResourceType") != "AWS::CloudFormation::Stack":
            failure = reason if status.endswith("FAILED") else failure
        elif status in _START_STATUSES:
            break
        elif status.endswith("FAILED"):
            own_failure = reason
    return failure or own_failure


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
