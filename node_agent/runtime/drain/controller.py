"""A node's drain, as its shell: plans are made and carried out, and what came of them is written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from node_agent.contract.drain_record import DrainRecord
from node_agent.contract.states import NodeState
from node_agent.contract.table_schema import RECORD_LIFE_S
from node_agent.core.drain.planner import DrainPlanner, Peer, ServedStream, reclaimed_pools
from node_agent.core.drain.timeline import DrainTimeline
from node_agent.core.node.lifecycle import Publish
from node_agent.runtime.engine.active_requests import EngineCall, EngineCalls
from node_agent.runtime.node.context import NodeContext

_log = logging.getLogger(__name__)


class DrainController:
    """keep: writes the record in the background, whenever there is more to it.

    handed_off: hears of the streams that leave and that may be kept, the longest first.
    """

    def __init__(
        self,
        node: NodeContext,
        served: EngineCalls,
        keep: Callable[[DrainRecord], None],
        handed_off: Callable[[Sequence[str]], None],
    ) -> None:
        self._node = node
        self._calls = served
        self._save = keep
        self._on_handed_off = handed_off
        self._drain = DrainPlanner(node.instance_id)
        self._log = DrainTimeline(node.instance_id, node.incarnation)
        self._open_before = 0  # requests at the engine at the last look, those handed off excepted

    @property
    def record(self) -> DrainRecord | None:
        return self._log.record

    def begin(self, publish: Publish) -> None:
        """The node is cordoned: readiness and peers have it."""
        if publish.deadline is None:
            return
        now = self._node.clock()
        self._log.begin(publish.step, publish.at, now, publish.deadline, int(now) + RECORD_LIFE_S)
        self._open_before = len(self._calls.streams())
        self._write()

    def run_plan(self, deadline: float) -> None:
        """Hand off what is due, by a plan that is made anew each time."""
        node, now = self._node, self._node.clock()
        streams = self._update_finished(now)
        present = node.present
        peers = [
            Peer(status, node.load_of(status.instance_id))
            for status in node.members.view.serving
            if status.model == node.model
        ]
        drainers = 1 + sum(status.state is NodeState.DRAINING for status in present)
        schedule = self._drain.plan(streams, peers, reclaimed_pools(present, node.pool), drainers, now, deadline)
        self._log.record_step("planned", now, len(schedule.due) + len(schedule.later))
        moved = []
        for hand_off in schedule.due:
            _log.info(
                "hands off request %d to %s%s", hand_off.key, hand_off.target, " (crowded)" * hand_off.is_overflow
            )
            if (served := self._calls.hand_off(hand_off.key, hand_off.target)) is not None:
                moved.append(served)
        self._record_handed_off(moved, now)
        self._open_before = len(streams) - len(moved)
        self._write()

    def close(self, clients: int) -> None:
        """All that is left is handed off; so many clients are told to resume elsewhere."""
        now = self._node.clock()
        self._update_finished(now)
        self._record_handed_off(self._calls.hand_off_all(), now)
        self._open_before = 0
        self._log.add_count("clients-closed", now, clients)
        self._write()

    def record_step(self, step: str) -> None:
        self._log.record_step(step, self._node.clock())
        self._write()

    def _record_handed_off(self, moved: Sequence[EngineCall], now: float) -> None:
        self._log.add_count("handed-off", now, len(moved))
        self._on_handed_off([served.request_id for served in moved if served.durable])

    def _update_finished(self, now: float) -> list[ServedStream]:
        """What is under way; those that are gone by themselves since the last look have finished."""
        streams = self._calls.streams()
        self._log.add_count("finished", now, max(0, self._open_before - len(streams)))
        self._open_before = len(streams)
        return streams

    def _write(self) -> None:
        if self._log.record is not None:
            self._save(self._log.record)
