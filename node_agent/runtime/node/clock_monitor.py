"""Detects that this node's clock is off: compares peers' clocks every few seconds (`core/node/peer_clocks` decides)."""

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
    """Compares clocks, and posts ClockOff and ClockRight to the reactor.

    wall_ahead_s: how far the system's time of day is ahead of this node's steady clock, in seconds.
    """

    def __init__(
        self, node: NodeContext, clocks: PeerClocks, wall_ahead_s: Callable[[], float], post: Callable[[Event], None]
    ) -> None:
        self._node = node
        self._clocks = clocks
        self._wall_ahead_s = wall_ahead_s
        self._post = post

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(EVERY_S)

    def check(self) -> None:
        """Compare the clocks once."""
        node, before = self._node, self._node.own_clock
        measured = (self._clocks.ahead_s(status.peer_address) for status in node.present)
        own = judge_own_clock([ahead_s for ahead_s in measured if ahead_s is not None], self._wall_ahead_s(), before)
        node.own_clock = own
        node.metrics.clock_off.set(own.off_s)
        node.metrics.clock_is_off.set(own.is_off)
        if own.is_off and not before.is_off:
            _log.error("%s: this node is at risk, because AWS refuses requests that such a clock signs; set it", own)
            self._post(ClockOff(node.wall_clock()))
        elif before.is_off and not own.is_off:
            _log.warning("this node's clock is right again")
            self._post(ClockRight(node.wall_clock()))
