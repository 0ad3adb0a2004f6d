"""Decide what an EC2 event means for the streams that a node had open.

EC2 delivers events late, repeated and out of order; nodes write meanwhile. Invariants:

* at an interruption warning the record gets the deadline, once; the node's own is not replaced;
* at the end of the instance each stream that the record has becomes orphaned, by a write that moves it only forward
  (`contract/ownership`): one that was closed, handed off or taken over stays as it is. Each event of the end decides
  this again, because the node may have written between two of them;
* an event from before the record's incarnation is about an earlier boot: the agent that runs now has written the
  record. An instance that runs again changes nothing;
* a record that has expired is of a node that does not write any more: nothing follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lambdas.core.decisions import MAX_CLOCK_SKEW_S
from node_agent.contract.aws_events import NOTICE_LEAD_S, TERMINAL_STATES, Ec2Event, SpotInterruption, StateChange
from node_agent.contract.open_streams import OpenStreams
from node_agent.contract.ownership import Ownership


@dataclass(frozen=True)
class StreamDecision:
    """What to write, and why: first `orphans`, then `deadline` and `ended_at` where they are not None."""

    reason: str
    orphans: tuple[Ownership, ...] = ()
    deadline: float | None = None
    """Unix seconds."""

    ended_at: float | None = None
    """Unix seconds."""


def decide_streams(event: Ec2Event, record: OpenStreams | None, now: float) -> StreamDecision:
    """Decide what an event changes. record: the node's, None where it has none; now: unix seconds."""
    if record is None or record.expires_at <= now:
        return StreamDecision("no open streams are recorded")
    if event.at + MAX_CLOCK_SKEW_S < record.incarnation / 1000:
        return StreamDecision("older than the record's incarnation")
    match event:
        case SpotInterruption() if record.deadline is None:
            return StreamDecision("will end", deadline=event.at + NOTICE_LEAD_S)
        case SpotInterruption():
            return StreamDecision(f"has a deadline of {record.deadline:.0f}")
        case StateChange() if event.state in TERMINAL_STATES:
            ended_at = event.at if record.ended_at is None else None
            return StreamDecision(f"has ended: {event.state}", record.orphans(now), ended_at=ended_at)
        case _:
            return StreamDecision("changes no stream")
