"""Decide how the fallback to on-demand is tried on a real group, and whether it came back.

A failed spot launch cannot be ordered. The drill sends the event of one, while an instance is missing: for the seconds
until the Lambda has decided, launches are suspended and the desired size is one more. Nothing is launched by that.
"""

from __future__ import annotations

from dataclasses import dataclass

from cli.core.first_day.redaction import Fact
from cli.core.first_day.report import StepResult, failed, not_run, passed
from lambdas.core.fallback_return import QUIET_S, STEP_S
from lambdas.core.on_demand_fallback import MAX_EVENT_AGE_S
from node_agent.contract.capacity import CapacityRecord

EVENT_AGE_S = MAX_EVENT_AGE_S - 60.0
"""How old the event is when it is sent. The base returns a fixed time after the last failure, so an older event is less
time on demand. The Lambda ignores events above MAX_EVENT_AGE_S; a minute is left for its start."""

DECIDED_WITHIN_S = 90.0
"""For EventBridge, and the Lambda's first start."""

RETURN_WITHIN_S = QUIET_S - EVENT_AGE_S + STEP_S + 900.0
"""For the return: what the schedule waits, three of its checks, and a step more."""

SHORTAGE = "Could not launch Spot Instances. UnfulfillableCapacity - sent by synkti drill first-day, nothing has failed"
"""The message of the event, in AWS's words as far as the Lambda reads them."""


@dataclass(frozen=True)
class GroupCapacity:
    """The group now. base: on-demand instances that it keeps; present: instances in service or about to be."""

    desired: int
    maximum: int
    present: int
    base: int
    launches_suspended: bool


@dataclass(frozen=True)
class BaseDrill:
    """What happened. Instants in unix seconds; None: not in time.

    raised_to: the recorded base; raised_at: when the record was seen; applied: whether the group had it, too;
    returned_at: when the group's base was again that of before; reasons: the Lambdas', of the changes.
    """

    before: GroupCapacity
    sent_at: float
    raised_to: int | None
    raised_at: float | None
    applied: bool
    returned_at: float | None
    shortage_recorded: bool = False
    """True where the Lambda has received the event, and did not raise the base: it is at its limit."""

    reasons: tuple[str, ...] = ()


def refusal(capacity: GroupCapacity) -> str:
    """Return why the step must not run on this group; empty where it may."""
    if capacity.launches_suspended:
        return "launches are suspended; synkti nodes shows why"
    if capacity.desired == 0:
        return "the fleet is stopped"
    if gap(capacity) and capacity.desired >= capacity.maximum:
        return f"the group has its maximum size, {capacity.maximum}, and none is missing"
    return ""


def gap(capacity: GroupCapacity) -> int:
    """Return by how much the desired size has to grow so that one instance is missing."""
    return 0 if capacity.present < capacity.desired else 1


def event_time(now: float, record: CapacityRecord | None) -> float:
    """Return the time that the event carries, in unix seconds: after the last change, or the Lambda ignores it."""
    return max(now - EVENT_AGE_S, record.changed_at + 1.0 if record is not None else 0.0)


def judge_base(drill: BaseDrill, *, embedded: bool) -> StepResult:
    """Decide from what happened. embedded: the group of an embedded AWS, which records no base."""
    facts: dict[str, Fact] = {
        "base_before": drill.before.base,
        "base_raised_to": drill.raised_to,
        "raised_after_s": _since(drill.raised_at, drill.sent_at),
        "returned_after_s": _since(drill.returned_at, drill.raised_at),
        "reasons": list(drill.reasons),
    }
    if drill.shortage_recorded:
        return not_run("the base is at its limit", "set on_demand_limit above on_demand_base, and deploy", **facts)
    if drill.raised_to is None:
        advice = "synkti logs, the Lambda launch-finished in CloudWatch; report this"
        return failed(f"no Lambda raised the base within {DECIDED_WITHIN_S:.0f} s of the event", advice, **facts)
    if embedded:
        return not_run("the Lambda recorded the raise; the embedded AWS keeps no base that could return", "", **facts)
    if not drill.applied:
        advice = "compare the statement SetBase of the Lambda's role with docs/security.md, and report this"
        return failed("the Lambda recorded the raise, but the group has the base of before", advice, **facts)
    if drill.returned_at is None:
        advice = "the Lambda fleet-checked in CloudWatch; this command has set the base back"
        return failed(f"the base did not return within {RETURN_WITHIN_S / 60:.0f} minutes", advice, **facts)
    took = (drill.returned_at - drill.sent_at) / 60
    return passed(f"the base rose to {drill.raised_to} and returned by itself after {took:.0f} minutes", **facts)


def _since(at: float | None, began: float | None) -> float | None:
    return None if at is None or began is None else round(at - began, 1)
