"""Decide whether nodes complete the group's lifecycle hooks, or the hooks time out.

A hook that times out looks as if it had been completed: the group goes on either way. The difference is the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.core.first_day.report import StepResult, failed, not_run, passed
from node_agent.contract.drain_record import DrainRecord, DrainStepName

IN_SERVICE, TERMINATING_WAIT = "InService", "Terminating:Wait"
MARGIN_S = 5.0
"""A hook that ends this shortly before its timeout counts as timed out: states are read every few seconds."""

_LAUNCH = re.compile(r"Launching a new EC2 instance: (i-[0-9a-f]+)")
_HOOK_ADVICE = "synkti logs NODE: the unit synkti-ready, or the agent's last lines; report this"


@dataclass(frozen=True)
class Launch:
    """A launch of the group. took_s: from its begin until the instance was in service; None while it is under way."""

    instance_id: str
    status: str
    took_s: float | None


def launches_of(activities: Iterable[Mapping[str, Any]]) -> tuple[Launch, ...]:
    """Return the launches among a group's activities, as DescribeScalingActivities has them, the newest first."""
    found = []
    for activity in activities:
        match = _LAUNCH.search(str(activity.get("Description", "")))
        if match:
            began, ended = activity.get("StartTime"), activity.get("EndTime")
            took_s = (ended - began).total_seconds() if began is not None and ended is not None else None
            found.append(Launch(match[1], str(activity.get("StatusCode", "")), took_s))
    return tuple(found)


def judge_launches(
    nodes: Sequence[str], launches: Iterable[Launch], states: Mapping[str, str], hook_timeout_s: float | None
) -> StepResult:
    """Decide whether the nodes that serve completed the launch hook themselves.

    Args:
        nodes: the ids of those that serve.
        launches: of the group.
        states: the instances' lifecycle states in the group.
        hook_timeout_s: of the hook; None where the group has none.

    Returns:
        The step's result.
    """
    if hook_timeout_s is None:
        return failed("the group has no launch hook", "deploy again; the stack defines the hook", hook_timeout_s=None)
    waiting = [each for each in nodes if each in states and states[each] != IN_SERVICE]
    if waiting:
        listed = ", ".join(f"{each} is {states[each]}" for each in waiting)
        return failed(f"nodes serve that the group does not count: {listed}", _HOOK_ADVICE)
    took = {each.instance_id: each.took_s for each in launches if each.took_s is not None}
    known = {each: took[each] for each in nodes if each in took}
    if not known:
        return not_run("the group has no record of the nodes' launches", hook_timeout_s=hook_timeout_s)
    facts = {"hook_timeout_s": hook_timeout_s, "launches": len(known), "longest_launch_s": max(known.values())}
    late = [each for each, seconds in known.items() if seconds >= hook_timeout_s - MARGIN_S]
    if late:
        return failed(f"the launch hook of {', '.join(late)} ended by its timeout", _HOOK_ADVICE, **facts)
    return passed(f"{len(known)} launches ended when the node served, within {max(known.values()):.0f} s", **facts)


@dataclass(frozen=True)
class StateSeen:
    """A lifecycle state of an instance, from when it was first seen. at: seconds of any clock; "": no longer there."""

    state: str
    at: float


def waited_s(seen: Sequence[StateSeen], state: str) -> float | None:
    """Return for how long a state was seen; None where it never was, or its end was not seen."""
    for number, each in enumerate(seen[:-1]):
        if each.state == state:
            return seen[number + 1].at - each.at
    return None


def judge_termination(seen: Sequence[StateSeen], drain: DrainRecord | None, hook_timeout_s: float | None) -> StepResult:
    """Decide whether a node that the group terminates drains, and completes the termination hook.

    Args:
        seen: its lifecycle states, in the order of time.
        drain: what the node recorded; None where it recorded nothing.
        hook_timeout_s: of the hook; None where the group has none.

    Returns:
        The step's result.
    """
    if hook_timeout_s is None:
        return failed("the group has no termination hook", "deploy again; the stack defines the hook")
    waited = waited_s(seen, TERMINATING_WAIT)
    steps = [step.step for step in drain.steps] if drain is not None else []
    facts = {"hook_timeout_s": hook_timeout_s, "waited_s": _rounded(waited), "drain_steps": steps}
    if waited is None:
        return failed("the group was not seen waiting for the node's drain", _HOOK_ADVICE, **facts)
    if waited >= hook_timeout_s - MARGIN_S:
        return failed("the termination hook ended by its timeout: the node did not complete it", _HOOK_ADVICE, **facts)
    if drain is None:
        return failed("the node left no record of its drain", "is the table's permission in docs/security.md?", **facts)
    if DrainStepName.UNTAGGED.value not in steps:
        return failed("the node did not remove its tags", "report this, with its last log", **facts)
    return passed(f"the node drained, and completed the hook after {waited:.0f} s of {hook_timeout_s:.0f} s", **facts)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
