"""Keep a bounded timeline of what happened to the fleet and to this node's streams, as this node saw it.

Rules kept here:

* the newest MAX_ENTRIES entries are kept, and none grows: a loss under a thousand streams is one entry with a count;
* continuations with the same cause, away from the same node, within MERGE_WITHIN_S of the first are one entry;
* entries have numbers in the order of time, so that a reader recognizes those that it has.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from node_agent.core.snapshot.fleet_changes import NodeChanged
from node_agent.core.snapshot.percentiles import pauses_to_json

MAX_ENTRIES = 200
MERGE_WITHIN_S = 10.0
MAX_PAUSES = 500
"""Of one entry; its percentiles are of the first of them."""

MAX_TARGETS = 8
"""Nodes that one entry names; more are counted."""


@dataclass(slots=True)
class TimelineEntry:
    """One entry. at: unix seconds; kind: a NodeChange, `continued`, `broken` or `closed`; node: the one concerned.

    code: why, for streams; pool: of the node; streams: how many; targets: where they continued, and how many there.
    """

    number: int
    at: float
    kind: str
    node: str
    code: str = ""
    pool: str = ""
    streams: int = 0
    targets: dict[str, int] = field(default_factory=dict)
    pauses_s: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Convert to a value for JSON."""
        shown = list(self.targets.items())[:MAX_TARGETS]
        return {
            "number": self.number,
            "at": round(self.at, 3),
            "kind": self.kind,
            "node": self.node,
            "code": self.code,
            "pool": self.pool,
            "streams": self.streams,
            "targets": [node for node, _ in shown],
            "more_targets": len(self.targets) - len(shown),
            "pause_ms": pauses_to_json(self.pauses_s),
        }


class Timeline:
    """The newest entries."""

    def __init__(self) -> None:
        self._entries: deque[TimelineEntry] = deque(maxlen=MAX_ENTRIES)
        self._count = 0

    def add_node_change(self, changed: NodeChanged, at: float) -> None:
        """Add a change of a node. at: unix seconds."""
        status = changed.status
        pool = f"{status.pool.zone} {status.pool.instance_type}"
        self._append(at, changed.change.value, status.instance_id, pool=pool)

    def add_continued(self, at: float, lost: str, code: str, node: str, pause_s: float) -> None:
        """Add a stream that continued.

        Args:
            at: unix seconds.
            lost: the node whose engine, or whose connection to the client, was lost.
            code: why.
            node: where the stream continues.
            pause_s: what its client waited, in seconds.
        """
        entry = self._merged("continued", at, lost, code)
        entry.streams += 1
        if node in entry.targets or len(entry.targets) < MAX_ENTRIES:
            entry.targets[node] = entry.targets.get(node, 0) + 1
        if len(entry.pauses_s) < MAX_PAUSES:
            entry.pauses_s.append(pause_s)

    def add_ended(self, at: float, node: str, code: str, *, is_resumable: bool) -> None:
        """Add a stream that ended before its answer was complete.

        Args:
            at: unix seconds.
            node: this one.
            code: of the error that its client received.
            is_resumable: whether the error names where to continue.
        """
        self._merged("closed" if is_resumable else "broken", at, node, code).streams += 1

    def to_json(self, most: int = MAX_ENTRIES) -> list[dict[str, Any]]:
        """Return the newest entries, the newest first."""
        newest = list(self._entries)[-most:]
        return [entry.to_json() for entry in reversed(newest)]

    def _merged(self, kind: str, at: float, node: str, code: str) -> TimelineEntry:
        for entry in reversed(self._entries):
            if at - entry.at > MERGE_WITHIN_S:
                break
            if (entry.kind, entry.node, entry.code) == (kind, node, code):
                return entry
        return self._append(at, kind, node, code)

    def _append(self, at: float, kind: str, node: str, code: str = "", pool: str = "") -> TimelineEntry:
        self._count += 1
        entry = TimelineEntry(self._count, at, kind, node, code, pool)
        self._entries.append(entry)
        return entry
