"""When this node syncs its table with a random member's."""

from __future__ import annotations

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.member_table import MemberTable, Rng
from node_agent.core.membership.sync_sessions import SyncSessions
from node_agent.core.membership.timers import Timers

_MIN_INTERVAL_S = 2.0
"""Between two syncs for updates about boot ids that were never introduced here."""


class SyncSchedule:
    """Starts sync sessions: soon after a change, and every `sync_interval_s` without one."""

    def __init__(
        self,
        table: MemberTable,
        sessions: SyncSessions,
        timers: Timers,
        config: GossipConfig,
        clock: ActiveClock,
        rng: Rng,
    ) -> None:
        self._table = table
        self._sessions = sessions
        self._timers = timers
        self._config = config
        self._clock = clock
        self._rng = rng
        self._last_at = 0.0
        self._last_version = 0
        self._next_for_missing_at = 0.0

    def run(self) -> None:
        """Sync if the table changed or it is time, and schedule the next run."""
        config, now = self._config, self._clock.now
        self._timers.schedule(now + config.sync_after_change_s * (0.8 + 0.4 * self._rng()), self.run)
        has_news = self._table.version != self._last_version
        if has_news or now - self._last_at >= config.sync_interval_s:
            self._last_at, self._last_version = now, self._table.version
            self.start()

    def start(self) -> None:
        """Sync with a random member."""
        for member in self._table.present.sample(1):
            self._sessions.start(member)

    def start_first(self) -> None:
        """Sync, unless a sync was completed before or is in progress."""
        if not self._sessions.completed and not len(self._sessions):
            self.start()

    def fetch_missing(self) -> None:
        """Sync, because an update named an unknown boot id; at most once in `_MIN_INTERVAL_S`."""
        if self._clock.now >= self._next_for_missing_at:
            self._next_for_missing_at = self._clock.now + _MIN_INTERVAL_S
            self.start()
