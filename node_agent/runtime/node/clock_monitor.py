"""Whether this node's clock is off: peers' clocks compared every few seconds (`core/node/peer_clocks` decides)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from node_agent.core.node.lifecycle import ClockOff, ClockRight, Event
from node_agent.core.node.peer_clocks import PeerClocks, judge_own_clock
from node_agent.runtime.node.context import NodeContext

EVERY_S = 5.0
_log = logging.getLogger(__name__)


class ClockMonitor:
    """post: gives an event to the reactor; wall_ahead_s: of the node's steady clock."""

    def __init__(
        self, node: NodeContext, clocks: PeerClocks, wall_ahead_s: Callable[[], float], post: Callable[[Event], None]
    ) -> None:
        self._node = node
        self._clocks = clocks
        self._wall_ahead_s = wall_ahead_s
        self._post = post

    def on_peer_clock(self, address: str, line: str, nonce: str, took_s: float) -> None:
        """A peer's door said its time with an answer that took so long."""
        self._clocks.record(address, line, nonce, took_s, self._node.wall_clock())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(EVERY_S)

    def check(self) -> None:
        node, before = self._node, self._node.own_clock
        measured = (self._clocks.ahead_s(status.peer_address) for status in node.present)
        own = judge_own_clock([ahead_s for ahead_s in measured if ahead_s is not None], self._wall_ahead_s(), before)
        node.own_clock = own
        node.metrics.clock_off.set(own.off_s)
        node.metrics.clock_is_off.set(own.is_off)
        if own.is_off and not before.is_off:
            _log.error("%s: this node is at risk, for AWS refuses what such a clock signs; set its clock", own)
            self._post(ClockOff(node.wall_clock()))
        elif before.is_off and not own.is_off:
            _log.warning("this node's clock is right again")
            self._post(ClockRight(node.wall_clock()))
