"""Carry out what an EC2 event means for a node's open streams: read, decide, write."""

from __future__ import annotations

from dataclasses import dataclass

from lambdas.adapters.ports import StreamRecords
from lambdas.conditional_writes import until_written
from lambdas.core.stream_decisions import decide_streams
from node_agent.contract.aws_events import Ec2Event


@dataclass(frozen=True)
class StreamOutcome:
    """What was done, and why."""

    reason: str
    orphaned: int
    """Streams that became orphaned."""

    others: int
    """Streams that had moved on: closed, handed off, taken over, or orphaned before."""


def handle_streams(event: Ec2Event, streams: StreamRecords, now: float) -> StreamOutcome:
    """Decide, and write. now: unix seconds. Raises RecordChanged as `until_written`, and botocore's errors."""

    def attempt() -> StreamOutcome:
        record = streams.find(event.instance_id)
        decision = decide_streams(event, record, now)
        orphaned = streams.advance(decision.orphans) if decision.orphans else 0
        if record is not None and decision.deadline is not None:
            streams.mark_deadline(record, decision.deadline)
        if record is not None and decision.ended_at is not None:
            streams.mark_ended(record, decision.ended_at)
        return StreamOutcome(decision.reason, orphaned, len(decision.orphans) - orphaned)

    return until_written(f"the open streams of {event.instance_id}", attempt)
