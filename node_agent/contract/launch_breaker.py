"""Nodes that gave up: the events that report them, and the record of the breaker that stops their replacement.

A node reports it itself before it ends (stacks/boot/give-up.sh). Auto Scaling reports the same for a node that could
not: its launch was abandoned, or the hook's time was up. So one instance may be reported twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node_agent.contract.capacity import LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT, LaunchSucceeded, parse_launch
from node_agent.contract.items import listing, seconds, text, whole
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE
from node_agent.contract.timestamps import parse_instant

GAVE_UP_EVENT = "Synkti Node Gave Up"
MAX_REASON = 400
"""Characters of a reason; more is cut."""

_ABANDONED = "lifecycle action"
"""Part of Auto Scaling's message where a node did not report that it serves."""


@dataclass(frozen=True)
class NodeGaveUp:
    """A node could not serve, or serve again, and ended. at: unix seconds; reason: in its own words."""

    event_id: str
    group: str
    at: float
    instance_id: str
    reason: str


BreakerEvent = NodeGaveUp | LaunchSucceeded


def parse_breaker_event(event: Mapping[str, Any]) -> BreakerEvent | None:
    """Parse an EventBridge event of a node that gave up, or that serves.

    Returns:
        The event; None for one of another kind, and for a launch that failed without a node.

    Raises:
        ValueError: A field is missing or invalid. The invocation should fail.
    """
    kind, detail = event.get("detail-type"), event.get("detail")
    if kind == LAUNCH_SUCCEEDED_EVENT:
        found = parse_launch(event)
        return found if isinstance(found, LaunchSucceeded) else None
    if kind not in (GAVE_UP_EVENT, LAUNCH_FAILED_EVENT):
        return None
    if not isinstance(detail, Mapping):
        raise ValueError(f"expected an object, got {type(detail).__name__}")
    reason = text(detail, "Reason" if kind == GAVE_UP_EVENT else "StatusMessage")
    if kind == LAUNCH_FAILED_EVENT and (_ABANDONED not in reason.lower() or not detail.get("EC2InstanceId")):
        return None
    return NodeGaveUp(
        text(event, "id"),
        text(detail, "AutoScalingGroupName"),
        parse_instant(text(event, "time")),
        text(detail, "EC2InstanceId"),
        reason[:MAX_REASON],
    )


def breaker_key(group: str) -> dict[str, str]:
    """Return the primary key of the breaker's record of an Auto Scaling group, which has one."""
    return {PARTITION_KEY: f"group#{group}", SORT_KEY: "breaker"}


@dataclass(frozen=True)
class GiveUp:
    """One node that gave up. at: unix seconds."""

    instance_id: str
    at: float
    reason: str


@dataclass(frozen=True)
class BreakerRecord:
    """The record of a group.

    fleet_version: the nodes' version that is counted; give_ups: since a node of that version served, the oldest first;
    opened_at: when launches were suspended (unix seconds; 0: they are not); event_id: of the event that suspended them;
    version: one more with every write.
    """

    group: str
    fleet_version: str
    give_ups: tuple[GiveUp, ...]
    opened_at: float
    event_id: str
    version: int
    expires_at: int

    @property
    def is_open(self) -> bool:
        """True where launches were suspended."""
        return self.opened_at > 0

    def to_item(self) -> dict[str, Any]:
        """Encode it as the DynamoDB resource API takes it; instants in whole milliseconds."""
        return {
            **breaker_key(self.group),
            "group": self.group,
            "fleet_version": self.fleet_version,
            "give_ups": [
                {"instance_id": each.instance_id, "at_ms": round(each.at * 1000), "reason": each.reason}
                for each in self.give_ups
            ],
            "opened_at_ms": round(self.opened_at * 1000),
            "event_id": self.event_id,
            "version": self.version,
            TTL_ATTRIBUTE: self.expires_at,
        }


def breaker_from_item(item: Mapping[str, Any]) -> BreakerRecord:
    """Decode an item of the table. Raises ValueError."""
    give_ups = (
        GiveUp(text(each, "instance_id"), seconds(each, "at_ms"), text(each, "reason"))
        for each in listing(item, "give_ups")
    )
    return BreakerRecord(
        group=text(item, "group"),
        fleet_version=text(item, "fleet_version"),
        give_ups=tuple(give_ups),
        opened_at=seconds(item, "opened_at_ms"),
        event_id=text(item, "event_id"),
        version=whole(item, "version"),
        expires_at=whole(item, TTL_ATTRIBUTE),
    )
