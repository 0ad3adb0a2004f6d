"""AWS's events about an instance: from IMDS on the node, from EventBridge in the Lambdas. One parser for each kind.

Rules kept here: an unknown kind is not an error but `None`, because AWS adds kinds; a malformed event raises
ValueError, because ignoring it would hide it; an instance is named by `detail.instance-id`, never by the event's ARN,
which for spot events holds a zone in the place of a region and no account.

Source: facts of the AWS documentation on spot-instance-termination-notices and rebalance recommendations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node_agent.contract.timestamps import parse_instant

NOTICE_LEAD_S = 120.0
"""EC2 gives about two minutes from notice to reclaim; an event carries the notice's time, not the deadline."""

_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")


@dataclass(frozen=True)
class InterruptionNotice:
    """EC2 reclaims the instance at `deadline` (unix seconds); action is terminate, stop or hibernate.

    as_of: when the notice was read, by the clock of its sender; None where it sent no time.
    """

    deadline: float
    action: str
    as_of: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SpotInterruption:
    """EC2 announced that it reclaims the instance. at: unix seconds; action: terminate, stop or hibernate."""

    event_id: str
    instance_id: str
    at: float
    action: str


@dataclass(frozen=True)
class RebalanceRecommendation:
    """EC2 reported that the instance has an elevated risk of interruption. at: unix seconds."""

    event_id: str
    instance_id: str
    at: float


@dataclass(frozen=True)
class StateChange:
    """The instance entered a state. at: unix seconds; state: as EC2 names it, such as running or terminated."""

    event_id: str
    instance_id: str
    at: float
    state: str


Ec2Event = SpotInterruption | RebalanceRecommendation | StateChange


def parse_instance_action(body: str) -> InterruptionNotice:
    """Parse the body of IMDS `spot/instance-action`. Raises ValueError."""
    document = _document(body)
    return InterruptionNotice(parse_instant(_text(document, "time")), _text(document, "action"))


def parse_rebalance(body: str) -> float:
    """Parse the body of IMDS `events/recommendations/rebalance`: when it was given, unix seconds. Raises ValueError."""
    return parse_instant(_text(_document(body), "noticeTime"))


def parse_event(event: Mapping[str, Any]) -> Ec2Event | None:
    """Parse an EventBridge event of EC2.

    Returns:
        The event; None for a kind that no handler knows.

    Raises:
        ValueError: An event of a known kind lacks a required field, or has an invalid one. The invocation should fail.
    """
    kind = event.get("detail-type")
    if not isinstance(kind, str) or kind not in _PARSERS:
        return None
    detail = _mapping(event.get("detail"))
    instance_id = _text(detail, "instance-id")
    if not _INSTANCE_ID.fullmatch(instance_id):
        raise ValueError(f"not an instance id: {instance_id!r}")
    return _PARSERS[kind](_text(event, "id"), instance_id, parse_instant(_text(event, "time")), detail)


def _interruption(event_id: str, instance_id: str, at: float, detail: Mapping[str, Any]) -> Ec2Event:
    return SpotInterruption(event_id, instance_id, at, _text(detail, "instance-action"))


def _rebalance(event_id: str, instance_id: str, at: float, detail: Mapping[str, Any]) -> Ec2Event:
    return RebalanceRecommendation(event_id, instance_id, at)


def _state_change(event_id: str, instance_id: str, at: float, detail: Mapping[str, Any]) -> Ec2Event:
    return StateChange(event_id, instance_id, at, _text(detail, "state"))


INTERRUPTION_EVENT = "EC2 Spot Instance Interruption Warning"
REBALANCE_EVENT = "EC2 Instance Rebalance Recommendation"
STATE_CHANGE_EVENT = "EC2 Instance State-change Notification"

TERMINAL_STATES = ("shutting-down", "terminated", "stopping", "stopped")
"""The states of a StateChange after which the instance is no node any more."""

_PARSERS = {INTERRUPTION_EVENT: _interruption, REBALANCE_EVENT: _rebalance, STATE_CHANGE_EVENT: _state_change}


def _document(body: str) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(body))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key!r} is missing or not a text")
    return value
