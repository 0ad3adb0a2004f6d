"""Orders the timeline of an interruption by cause, with times as exact as their sources. Pure.

EventBridge's times are whole seconds, so that by time alone an instance may end before its node read the notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from node_agent.contract.table_schema import TimelineStep
from node_agent.contract.tags import DEADLINE_TAG, STATE_TAG
from node_agent.contract.timestamps import format_instant

_BY_CAUSE = (
    "launched", "pending", "running", "started", "ready", "rebalance-recommendation", "interruption-notice",
    "notice-seen", "drained", "shutting-down", "terminated",
)  # fmt: skip
_WHOLE_SECONDS = "eventbridge"


@dataclass(frozen=True)
class Step:
    """A step as it is printed. when: the time of day in UTC, with milliseconds only where the source has them."""

    when: str
    step: str
    source: str


def steps_by_cause(timeline: Iterable[TimelineStep]) -> list[Step]:
    """Return the steps in the order in which one causes the next; unknown ones by their time, at the end."""
    order = {step: number for number, step in enumerate(_BY_CAUSE)}
    found = sorted(timeline, key=lambda each: (order.get(each.step, len(order)), each.at))
    return [Step(_time_of_day(each.at, each.source), each.step, each.source) for each in found]


def tag_changes(tags: Sequence[tuple[float, dict[str, str]]]) -> list[tuple[str, str]]:
    """Return the changes of a node's state in its tags. tags: all tags with the unix seconds when they were read."""
    changes: list[tuple[str, str]] = []
    for at, found in tags:
        deadline = f", deadline {found[DEADLINE_TAG][11:19]}" if DEADLINE_TAG in found else ""
        text = f"state {found[STATE_TAG]}{deadline}" if STATE_TAG in found else "no state: it removed its tags"
        if not changes or changes[-1][1] != text:
            changes.append((format_instant(at)[11:23], text))
    return changes


def _time_of_day(at: float, source: str) -> str:
    return format_instant(at)[11 : 19 if source == _WHOLE_SECONDS else 23]
