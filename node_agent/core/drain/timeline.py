"""Collect the steps of a drain into the record that the node writes (`contract/drain_record`).

Streams are counted, not listed: `planned` is how many were to be moved at first, `handed-off` how many were so far and
when the last one was, `finished` how many ended here by themselves. So the record stays small, however large the node
is.
"""

from __future__ import annotations

from dataclasses import replace

from node_agent.contract.drain_record import DrainRecord, DrainStep, DrainStepName

MAX_STEPS = 64
"""A deadline may move nearer again and again; beyond this its moves are not recorded."""


class DrainTimeline:
    """The steps of one node's drain. record: the steps so far, None before a drain."""

    def __init__(self, instance_id: str, incarnation: int) -> None:
        self._instance_id = instance_id
        self._incarnation = incarnation
        self.record: DrainRecord | None = None

    def begin(self, why: str, requested_at: float, cordoned_at: float, deadline: float, expires_at: int) -> None:
        """Record that the node drains, or that its deadline moved nearer. All instants are unix seconds."""
        before = self.record.steps if self.record is not None else ()
        steps = (
            *before,
            DrainStep(DrainStepName.REQUESTED.value, requested_at),
            DrainStep(DrainStepName.CORDONED.value, cordoned_at),
        )
        if len(steps) > MAX_STEPS:
            steps = before
        self.record = DrainRecord(self._instance_id, self._incarnation, why, deadline, expires_at, steps)

    def record_step(self, step: DrainStepName, at: float, count: int | None = None) -> None:
        """Record a step; a second time changes nothing."""
        if self._find(step) is None:
            self._add(DrainStep(step.value, at, count))

    def add_count(self, step: DrainStepName, at: float, more: int) -> None:
        """Add `more` to a step's count, and set its instant to `at`."""
        if more:
            found = self._find(step)
            self._add(
                DrainStep(step.value, at, more + (found.count or 0 if found is not None else 0)), instead_of=found
            )

    def _find(self, step: DrainStepName) -> DrainStep | None:
        steps = self.record.steps if self.record is not None else ()
        return next((one for one in steps if one.step == step), None)

    def _add(self, step: DrainStep, instead_of: DrainStep | None = None) -> None:
        if self.record is None:
            return
        others = [one for one in self.record.steps if one is not instead_of]
        self.record = replace(self.record, steps=(*others, step))
