"""Capacity: launch events of EC2 Auto Scaling, and the record of the changes that a lack of spot capacity caused.

The record belongs to the group. It holds how many on-demand instances were last set because spot had none, so that the
next event, which may be late, repeated or out of order, is judged by what happened before it.

Source: Amazon EC2 Auto Scaling's event reference, "Successful" and "Unsuccessful scaling events".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node_agent.contract.items import listing, seconds, text, whole
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE
from node_agent.contract.timestamps import parse_instant

LAUNCH_FAILED_EVENT = "EC2 Instance Launch Unsuccessful"
LAUNCH_SUCCEEDED_EVENT = "EC2 Instance Launch Successful"
SCHEDULED_EVENT = "Scheduled Event"
MAX_HISTORY = 20


@dataclass(frozen=True)
class LaunchFailed:
    """A launch failed. message: AWS's own text; at: unix seconds."""

    event_id: str
    group: str
    at: float
    message: str


@dataclass(frozen=True)
class LaunchSucceeded:
    """The group launched an instance. at: unix seconds."""

    event_id: str
    group: str
    at: float
    instance_id: str


LaunchEvent = LaunchFailed | LaunchSucceeded


@dataclass(frozen=True)
class ScheduledCheck:
    """A rule's schedule was due. at: unix seconds."""

    event_id: str
    at: float


def parse_launch(event: Mapping[str, Any]) -> LaunchEvent | None:
    """Parse an EventBridge event of a launch.

    Returns:
        The launch, or the failure of one; None for an event of another kind.

    Raises:
        ValueError: A launch's event lacks a required field, or has an invalid one. The invocation should fail.
    """
    kind = event.get("detail-type")
    if not isinstance(kind, str) or kind not in (LAUNCH_FAILED_EVENT, LAUNCH_SUCCEEDED_EVENT):
        return None
    detail = event.get("detail")
    if not isinstance(detail, Mapping):
        raise ValueError(f"expected an object, got {type(detail).__name__}")
    event_id, group, at = _text(event, "id"), _text(detail, "AutoScalingGroupName"), parse_instant(_text(event, "time"))
    if kind == LAUNCH_FAILED_EVENT:
        return LaunchFailed(event_id, group, at, _text(detail, "StatusMessage"))
    return LaunchSucceeded(event_id, group, at, _text(detail, "EC2InstanceId"))


def parse_check(event: Mapping[str, Any]) -> ScheduledCheck | None:
    """Parse an EventBridge event of a schedule; None for an event of another kind. Raises ValueError."""
    if event.get("detail-type") != SCHEDULED_EVENT:
        return None
    return ScheduledCheck(_text(event, "id"), parse_instant(_text(event, "time")))


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key!r} is missing or not a text")
    return value


def group_key(group: str) -> dict[str, str]:
    """Return the primary key of the capacity record of an Auto Scaling group, which has one."""
    return {PARTITION_KEY: f"group#{group}", SORT_KEY: "capacity"}


@dataclass(frozen=True)
class CapacityChange:
    """One change. base: on-demand instances from then on; at: unix seconds."""

    base: int
    at: float
    why: str


@dataclass(frozen=True)
class CapacityRecord:
    """The record of a group.

    base: as last set for want of spot; failed_at: the last such failure, changed_at: the last change (unix seconds, 0
    for never); event_id: of the event that changed it; version: one more with every write.
    """

    group: str
    base: int
    failed_at: float
    changed_at: float
    event_id: str
    version: int
    expires_at: int
    history: tuple[CapacityChange, ...] = ()

    def to_item(self) -> dict[str, Any]:
        """Encode it as the DynamoDB resource API takes it; instants in whole milliseconds."""
        return {
            **group_key(self.group),
            "group": self.group,
            "base": self.base,
            "failed_at_ms": round(self.failed_at * 1000),
            "changed_at_ms": round(self.changed_at * 1000),
            "event_id": self.event_id,
            "version": self.version,
            TTL_ATTRIBUTE: self.expires_at,
            "history": [{"base": c.base, "at_ms": round(c.at * 1000), "why": c.why} for c in self.history],
        }


def capacity_from_item(item: Mapping[str, Any]) -> CapacityRecord:
    """Decode an item of the table. Raises ValueError."""
    history = (CapacityChange(whole(c, "base"), seconds(c, "at_ms"), text(c, "why")) for c in listing(item, "history"))
    return CapacityRecord(
        group=text(item, "group"),
        base=whole(item, "base"),
        failed_at=seconds(item, "failed_at_ms"),
        changed_at=seconds(item, "changed_at_ms"),
        event_id=text(item, "event_id"),
        version=whole(item, "version"),
        expires_at=whole(item, TTL_ATTRIBUTE),
        history=tuple(history),
    )
