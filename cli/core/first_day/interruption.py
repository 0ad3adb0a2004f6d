"""Decide what a real interruption showed: the notice in the node's metadata, EventBridge's event, the replacement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cli.core.first_day.redaction import Fact
from cli.core.first_day.report import Outcome, StepResult, failed
from node_agent.contract.aws_events import NOTICE_LEAD_S
from node_agent.contract.drain_record import DrainRecord, DrainStepName
from node_agent.contract.table_schema import TimelineStep

NOTICE_SEEN = "notice-seen@imds"
EVENT_RECORDED = "interruption-notice@eventbridge"
_LATE_S = 10.0
"""A node reads its metadata once a second; above this something is wrong."""


@dataclass(frozen=True)
class NodeEnd:
    """How a node ended. Instants in unix seconds; None: not in time.

    began_at: when AWS accepted the request; gone_at: when the instance did not run any more; whole_at: when as many
    nodes served as desired again.
    """

    began_at: float
    timeline: Mapping[str, TimelineStep]
    drain: DrainRecord | None
    gone_at: float | None
    whole_at: float | None


def end_facts(end: NodeEnd) -> dict[str, Fact]:
    """Return what was measured, in seconds since the request, and since the notice."""
    seen = end.timeline.get(NOTICE_SEEN)
    event = end.timeline.get(EVENT_RECORDED)
    steps = {step.step: step for step in (end.drain.steps if end.drain is not None else ())}
    requested, cordoned = steps.get(DrainStepName.REQUESTED.value), steps.get(DrainStepName.CORDONED.value)
    handed_off = steps.get(DrainStepName.HANDED_OFF.value)
    return {
        "notice_seen_after_s": _since(seen.at if seen else None, end.began_at),
        "event_after_notice_s": _since(event.at if event else None, seen.at if seen else None),
        "cordon_after_notice_s": _since(cordoned.at if cordoned else None, requested.at if requested else None),
        "handed_off": handed_off.count if handed_off else None,
        "gone_after_s": _since(end.gone_at, end.began_at),
        "replaced_after_s": _since(end.whole_at, end.began_at),
        "timeline": [f"{step.key} +{step.at - end.began_at:.1f} s" for step in _in_order(end.timeline)],
        "drain_steps": [
            f"{step.step} +{step.at - end.began_at:.1f} s" for step in (end.drain.steps if end.drain else ())
        ],
    }


def judge_interruption(end: NodeEnd, streams: StepResult) -> StepResult:
    """Decide from the node's end, and from the streams that were open meanwhile."""
    facts: dict[str, Fact] = {**end_facts(end), **streams.facts}
    if streams.outcome is not Outcome.OK:
        return StepResult(streams.outcome, streams.summary, streams.advice, facts)
    seen = end.timeline.get(NOTICE_SEEN)
    if seen is None:
        advice = "synkti logs NODE: the watcher of IMDS; report this"
        return failed("the node did not record the notice of its metadata", advice, **facts)
    if seen.at - end.began_at > NOTICE_LEAD_S + _LATE_S:
        return failed("the node recorded the notice after its deadline", "report this, with the node's log", **facts)
    if EVENT_RECORDED not in end.timeline:
        advice = "the Lambda node-interrupted in CloudWatch, and its dead-letter queue; clients were not affected"
        return failed("no Lambda recorded EventBridge's event", advice, **facts)
    if end.gone_at is None:
        return failed("the instance did not end", "look at the experiment in the Fault Injection Service", **facts)
    if end.whole_at is None:
        return failed("the fleet was not complete again in time", "synkti nodes shows why", **facts)
    took = end.whole_at - end.began_at
    return StepResult(Outcome.OK, f"{streams.summary}; replaced after {took / 60:.0f} minutes", "", facts)


def _in_order(timeline: Mapping[str, TimelineStep]) -> list[TimelineStep]:
    return sorted(timeline.values(), key=lambda step: (step.at, step.key))


def _since(at: float | None, began: float | None) -> float | None:
    return None if at is None or began is None else round(at - began, 1)
