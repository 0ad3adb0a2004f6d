"""The story of a fleet: launches, interruptions, drains and hand-offs, from the records of nodes and Lambdas.

EventBridge's times have whole seconds, and clocks differ, so times are shown in seconds. Within a second the order is
that of cause and effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cli.core.nodes import Node
from cli.core.scaling_group import LaunchFailure
from node_agent.contract.capacity import CapacityRecord
from node_agent.contract.drain_record import DrainRecord, DrainStepName
from node_agent.contract.launch_breaker import BreakerRecord
from node_agent.contract.table_schema import NodeRecord
from node_agent.contract.timestamps import format_instant

TABLE_HEADERS = ("WHEN", "NODE", "WHAT", "REPORTED BY")
DROPPABLE = ("REPORTED BY",)
"""Columns that a narrow terminal leaves out."""

_TEXTS = {
    "launched": "EC2 launched it",
    "started": "its agent started",
    "ready": "ready: it accepts requests",
    "rebalance-recommended": "EC2 recommends to replace it: at risk",
    "interruption-notice": "EC2 announced its interruption",
    "notice-seen": "read EC2's notice: it drains",
    "termination-requested": "its end was requested (scale-in, update or synkti drain): it drains",
    "engine-lost": "its engine was lost, and is started again",
    "clock-off": "its clock is off: at risk",
    "clock-right": "its clock is right again",
    "drained": "drained: it ends",
    "shutting-down": "EC2 ends it",
    "terminated": "terminated",
    "stopping": "EC2 stops it",
    "stopped": "stopped",
}
"""By the step of a node's timeline; another step is shown as it is."""

_COUNTED = {
    DrainStepName.HANDED_OFF.value: "handed off streams",
    DrainStepName.FINISHED.value: "finished streams",
    DrainStepName.CLIENTS_CLOSED.value: "sent clients to other nodes",
}
_ORDER = {
    name: rank
    for rank, name in enumerate(
        ["launched", "started", "ready", "rebalance-recommended", "interruption-notice", "notice-seen",
         "termination-requested", *_COUNTED, "drained", "shutting-down", "terminated", "stopping", "stopped"]
    )
}  # fmt: skip
_ANNOUNCED = frozenset({"interruption-notice", "notice-seen", "termination-requested"})
_ENDED = frozenset({"shutting-down", "terminated", "stopping", "stopped"})


@dataclass(frozen=True)
class FleetEvent:
    """One event. at: unix seconds; node: an instance id, "" for the group; kind: for programs; source: its reporter."""

    at: float
    node: str
    kind: str
    what: str
    source: str

    def document(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return {
            "at": format_instant(self.at),
            "node": self.node or None,
            "event": self.kind,
            "what": self.what,
            "source": self.source,
        }

    @property
    def row(self) -> tuple[str, ...]:
        """Its row of the table; what a node reported may have any characters."""
        what = "".join(each if each.isprintable() else " " for each in self.what)
        when = format_instant(float(int(self.at))).replace(".000", "")
        return when, self.node or "(group)", what, self.source


def in_order(events: Iterable[FleetEvent], since: float) -> tuple[FleetEvent, ...]:
    """Return the events from `since` (unix seconds) on, each once, the oldest first."""
    kept = {event for event in events if event.at >= since}
    return tuple(sorted(kept, key=lambda each: (int(each.at), _ORDER.get(each.kind, len(_ORDER)), each.at, each.node)))


def events_of_records(records: Iterable[NodeRecord]) -> list[FleetEvent]:
    """Return the steps of nodes' timelines."""
    found = []
    for record in records:
        steps = {step.step for step in record.timeline.values()}
        for step in record.timeline.values():
            what = _TEXTS.get(step.step, step.step)
            if step.step in _ENDED and not steps & _ANNOUNCED:
                what += ", without a notice"
            found.append(FleetEvent(step.at, record.instance_id, step.step, what, step.source))
    return found


def events_of_drains(drains: Iterable[DrainRecord]) -> list[FleetEvent]:
    """Return what became of the streams of draining nodes."""
    found = []
    for drain in drains:
        for step in drain.steps:
            if step.step in _COUNTED and step.count:
                left = max(0, round(drain.deadline - step.at))
                what = f"{_COUNTED[step.step]}: {step.count}, {left} s before the deadline"
                found.append(FleetEvent(step.at, drain.instance_id, step.step, what, "agent"))
    return found


def events_of_group(
    nodes: Iterable[Node],
    failures: Iterable[LaunchFailure],
    capacity: CapacityRecord | None,
    breaker: BreakerRecord | None,
) -> list[FleetEvent]:
    """Return the launches of the nodes that run, failed launches, nodes that gave up, and changes of capacity."""
    found = [FleetEvent(node.launched_at, node.instance_id, "launched", _TEXTS["launched"], "ec2") for node in nodes]
    found += [FleetEvent(each.at, "", "launch-failed", f"a launch failed: {each.message}", "ec2") for each in failures]
    for change in capacity.history if capacity is not None else ():
        what = f"on-demand instances: {change.base} ({change.why})"
        found.append(FleetEvent(change.at, "", "capacity", what, "lambda"))
    if breaker is not None:
        found += [
            FleetEvent(each.at, each.instance_id, "gave-up", f"gave up: {each.reason}", "lambda")
            for each in breaker.give_ups
        ]
        if breaker.is_open:
            what = "launches suspended, because several nodes in a row gave up"
            found.append(FleetEvent(breaker.opened_at, "", "launches-suspended", what, "lambda"))
    return found
