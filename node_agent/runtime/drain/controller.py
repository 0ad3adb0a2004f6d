"""Run a node's drain: plan hand-offs, execute them, and record each step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from node_agent.contract.drain_record import DrainRecord, DrainStepName
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import RECORD_LIFE_S
from node_agent.core.drain.planner import DrainPlanner, Peer, ServedStream, reclaimed_pools
from node_agent.core.drain.timeline import DrainTimeline
from node_agent.core.node.lifecycle import Publish
from node_agent.runtime.engine.active_requests import EngineCalls
from node_agent.runtime.engine.engine_call import EngineCall
from node_agent.runtime.node.context import NodeContext

_log = logging.getLogger(__name__)


class DrainController:
    """Drains one node.

    Args:
        node: this node and its view of the fleet.
        calls: the requests at this node's engine.
        save: writes the record in the background, after each step.
        on_handed_off: called with the ids of the durable streams that leave, the longest first.
    """

    def __init__(
        self,
        node: NodeContext,
        calls: EngineCalls,
        save: Callable[[DrainRecord], None],
        on_handed_off: Callable[[Sequence[str]], None],
    ) -> None:
        self._node = node
        self._calls = calls
        self._save = save
        self._on_handed_off = on_handed_off
        self._planner = DrainPlanner(node.instance_id)
        self._timeline = DrainTimeline(node.instance_id, node.incarnation)
        self._open_before = 0  # requests at the engine when last counted, without those handed off

    @property
    def record(self) -> DrainRecord | None:
        """The record of the drain so far, None before one."""
        return self._timeline.record

    def begin(self, publish: Publish) -> None:
        """Start the record: the node is cordoned, and readiness and peers show it."""
        if publish.deadline is None:
            return
        now = self._node.wall_clock()
        self._timeline.begin(publish.step, publish.at, now, publish.deadline, int(now) + RECORD_LIFE_S)
        self._open_before = len(self._calls.streams())
        self._write()

    def run_plan(self, deadline: float) -> None:
        """Plan again, and hand off what is due. deadline: unix seconds."""
        node, now = self._node, self._node.wall_clock()
        streams = self._update_finished(now)
        present = node.present
        peers = [
            Peer(status, node.load_of(status.instance_id))
            for status in node.members.view.serving
            if status.model == node.model
        ]
        drainers = 1 + sum(status.state is NodeState.DRAINING for status in present)
        plan = self._planner.plan(streams, peers, reclaimed_pools(present, node.pool), drainers, now, deadline)
        self._timeline.record_step(DrainStepName.PLANNED, now, len(plan.due) + len(plan.later))
        moved: list[EngineCall] = []
        for hand_off in plan.due:
            _log.info(
                "hands off request %d to %s%s", hand_off.key, hand_off.target, " (crowded)" * hand_off.is_overflow
            )
            if (call := self._calls.hand_off(hand_off.key, hand_off.target)) is not None:
                moved.append(call)
        self._record_handed_off(moved, now)
        self._open_before = len(streams) - len(moved)
        self._write()

    def close(self, clients: int) -> None:
        """Hand off all remaining streams. clients: how many connections are closed, to resume elsewhere."""
        now = self._node.wall_clock()
        self._update_finished(now)
        self._record_handed_off(self._calls.hand_off_all(), now)
        self._open_before = 0
        self._timeline.add_count(DrainStepName.CLIENTS_CLOSED, now, clients)
        self._write()

    def record_step(self, step: DrainStepName) -> None:
        """Record that a step of the drain happened now."""
        self._timeline.record_step(step, self._node.wall_clock())
        self._write()

    def _record_handed_off(self, moved: Sequence[EngineCall], now: float) -> None:
        self._timeline.add_count(DrainStepName.HANDED_OFF, now, len(moved))
        self._on_handed_off([call.request_id for call in moved if call.durable])

    def _update_finished(self, now: float) -> list[ServedStream]:
        """Return the streams in flight, and count those that ended by themselves since the last call as finished."""
        streams = self._calls.streams()
        self._timeline.add_count(DrainStepName.FINISHED, now, max(0, self._open_before - len(streams)))
        self._open_before = len(streams)
        return streams

    def _write(self) -> None:
        if self._timeline.record is not None:
            self._save(self._timeline.record)
