"""Decide what one viewer of snapshots receives: each new one, none while it lags, or the end of its connection.

A viewer's queue is one snapshot: what it has not read when the next one is due is never followed by another, since only
the newest matters. So a viewer holds no memory that grows.
"""

from __future__ import annotations

from enum import Enum

MAX_VIEWERS = 16
"""At one node, at once."""

MAX_SKIPPED = 10
"""Snapshots in a row that a viewer may miss: seconds without reading one."""


class ViewerStep(Enum):
    """What to do with a viewer when a snapshot is due."""

    SEND = "send"
    SKIP = "skip"
    DROP = "drop"


class ViewerPace:
    """The pace of one viewer."""

    def __init__(self) -> None:
        self._skipped = 0

    def next_step(self, *, is_congested: bool) -> ViewerStep:
        """Return what to do now. is_congested: whether the viewer has not read what it was sent."""
        if not is_congested:
            self._skipped = 0
            return ViewerStep.SEND
        self._skipped += 1
        return ViewerStep.DROP if self._skipped > MAX_SKIPPED else ViewerStep.SKIP
