"""Contents of requests that the fleet refuses for a while (`core/failure/crash_suspects`).

A refusal is broadcast like any update, and again now and then while it lasts, for nodes that came or were away
meanwhile. The table is bounded in number and time, whatever peers send: the oldest entry makes room.
"""

from __future__ import annotations

from collections.abc import Callable

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.broadcast_queue import BroadcastQueue
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.events import Refused
from node_agent.core.membership.member_table import MemberTable, Rng
from node_agent.core.membership.timers import Timers
from node_agent.core.membership.wire.updates import Refusal, write_refusal

MAX_REFUSALS = 256
MAX_DURATION_S = 3_600.0
REBROADCAST_INTERVAL_S = 5.0
MAX_REBROADCAST = 8
"""At most, each time; with 22 bytes each they leave room for other updates in a datagram."""

_SLACK_S = 2.0
"""A refusal that ends this much later than the known one is new; otherwise it is the known one, received late."""


class Refusals:
    """Refused contents and when each ends; instants are the owner's, in seconds."""

    def __init__(self, capacity: int = MAX_REFUSALS) -> None:
        self._capacity = capacity
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, content: bytes, remaining_s: float, now: float) -> bool:
        """Add a refusal; return whether it is new."""
        until = now + min(max(remaining_s, 0.0), MAX_DURATION_S)
        known = self._until.get(content, now)
        if until <= known + _SLACK_S:
            return False
        self._until.pop(content, None)
        if len(self._until) >= self._capacity:
            del self._until[next(iter(self._until))]
        self._until[content] = until
        return True

    def sample(self, now: float, draw: float) -> list[tuple[bytes, float]]:
        """Return some that last, each with the seconds that remain. draw: uniform in [0, 1), where to begin."""
        for content in [content for content, until in self._until.items() if until <= now]:
            del self._until[content]
        held = list(self._until.items())
        begin = int(draw * len(held))
        return [(content, until - now) for content, until in (held[begin:] + held[:begin])[:MAX_REBROADCAST]]


class RefusalBroadcasts:
    """Broadcasts refusals, new ones at once and all that last now and then. on_refused: receives each new one."""

    def __init__(
        self,
        table: MemberTable,
        broadcasts: BroadcastQueue,
        timers: Timers,
        config: GossipConfig,
        clock: ActiveClock,
        rng: Rng,
        on_refused: Callable[[Refused], None],
    ) -> None:
        self._table = table
        self._broadcasts = broadcasts
        self._timers = timers
        self._config = config
        self._clock = clock
        self._rng = rng
        self._on_refused = on_refused
        self._refusals = Refusals()

    def __len__(self) -> int:
        return len(self._refusals)

    def add(self, refusal: Refusal) -> None:
        """Queue a refusal and report it, where it is new."""
        is_first = not len(self._refusals)
        if not self._refusals.add(refusal.content, refusal.left_s, self._clock.now):
            return
        self._broadcasts.add(refusal.content, write_refusal(*refusal))
        self._on_refused(Refused(*refusal))
        if is_first:
            self._timers.schedule(self._clock.now + REBROADCAST_INTERVAL_S, self._rebroadcast)

    def _rebroadcast(self) -> None:
        """Queue refusals again for nodes that came meanwhile: on a few nodes each time, while any refusal lasts."""
        refusals = self._refusals.sample(self._clock.now, self._rng())
        if self._rng() * self._table.nodes < self._config.extra_probes:
            for content, left_s in refusals:
                self._broadcasts.add(content, write_refusal(content, left_s))
        if len(self._refusals):
            self._timers.schedule(self._clock.now + REBROADCAST_INTERVAL_S, self._rebroadcast)
