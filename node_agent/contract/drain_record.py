"""The record of a drain: each step, when it happened, and how far the deadline was then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from node_agent.contract.items import listing, seconds, text, whole
from node_agent.contract.table_schema import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE, node_key

DRAIN_KIND = "drain"


class DrainStepName(StrEnum):
    """The steps that a node records; the record carries the value."""

    REQUESTED = "requested"
    CORDONED = "cordoned"
    PLANNED = "planned"
    HANDED_OFF = "handed-off"
    FINISHED = "finished"
    CLIENTS_CLOSED = "clients-closed"
    RETIRED = "retired"
    UNTAGGED = "untagged"


@dataclass(frozen=True)
class DrainStep:
    """One step of a drain."""

    step: str
    """A DrainStepName's value, or the step of a node of another version."""

    at: float
    """Unix seconds."""

    count: int | None = None
    """The streams or clients that it is about; None where it is about the node."""


@dataclass(frozen=True)
class DrainRecord:
    """One drain of a node.

    why: notice-seen, termination-requested; deadline, expires_at: unix seconds; steps: in the order of time;
    incarnation: of the agent that drained.
    """

    instance_id: str
    incarnation: int
    why: str
    deadline: float
    expires_at: int
    steps: tuple[DrainStep, ...] = ()

    def to_item(self) -> dict[str, Any]:
        """Encode it as the DynamoDB resource API takes it; instants in whole milliseconds."""
        key = node_key(self.instance_id)
        return {
            PARTITION_KEY: key[PARTITION_KEY],
            SORT_KEY: f"{DRAIN_KIND}#{self.incarnation}",
            "instance_id": self.instance_id,
            "incarnation": self.incarnation,
            "why": self.why,
            "deadline_ms": round(self.deadline * 1000),
            TTL_ATTRIBUTE: self.expires_at,
            "steps": [_step_item(step) for step in self.steps],
        }

    def to_json(self) -> dict[str, Any]:
        """Encode it for people and programs, with the seconds that were left at each step."""
        return {
            "instance_id": self.instance_id,
            "why": self.why,
            "deadline": self.deadline,
            "steps": [
                {"step": step.step, "at": step.at, "left_s": round(self.deadline - step.at, 3), "count": step.count}
                for step in self.steps
            ],
        }


def _step_item(step: DrainStep) -> dict[str, Any]:
    return {"step": step.step, "at_ms": round(step.at * 1000), "count": step.count}


def drain_from_item(item: Mapping[str, Any]) -> DrainRecord:
    """Decode an item of the table. Raises ValueError."""
    return DrainRecord(
        instance_id=text(item, "instance_id"),
        incarnation=whole(item, "incarnation"),
        why=text(item, "why"),
        deadline=seconds(item, "deadline_ms"),
        expires_at=whole(item, TTL_ATTRIBUTE),
        steps=tuple(map(_step_from_item, listing(item, "steps"))),
    )


def _step_from_item(item: Mapping[str, Any]) -> DrainStep:
    count = None if item.get("count") is None else whole(item, "count")
    return DrainStep(text(item, "step"), seconds(item, "at_ms"), count)
