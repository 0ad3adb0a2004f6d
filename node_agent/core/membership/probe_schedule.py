"""When this node probes which member, join candidate or dead member."""

from __future__ import annotations

from node_agent.core.membership.active_clock import ActiveClock
from node_agent.core.membership.config import GossipConfig
from node_agent.core.membership.join_candidates import JoinCandidates
from node_agent.core.membership.local_health import LocalHealth
from node_agent.core.membership.member_state import pending_accusation
from node_agent.core.membership.member_table import MemberTable, Rng
from node_agent.core.membership.outbound import LocalNode
from node_agent.core.membership.prober import Prober
from node_agent.core.membership.sync_schedule import SyncSchedule
from node_agent.core.membership.timers import Timers

MAX_JOIN_PROBES = 3


class ProbeSchedule:
    """Probes two members every `probe_interval_s`: the next in the probe order, and the one that this node watches."""

    def __init__(
        self,
        local: LocalNode,
        table: MemberTable,
        candidates: JoinCandidates,
        prober: Prober,
        sync: SyncSchedule,
        timers: Timers,
        health: LocalHealth,
        config: GossipConfig,
        clock: ActiveClock,
        rng: Rng,
    ) -> None:
        self._local = local
        self._table = table
        self._candidates = candidates
        self._prober = prober
        self._sync = sync
        self._timers = timers
        self._health = health
        self._config = config
        self._clock = clock
        self._rng = rng

    @property
    def _next_at(self) -> float:
        return self._clock.now + self._config.probe_interval_s * self._health.timeout_multiplier

    def probe_next(self) -> None:
        """Probe the next member in the probe order and join candidates, and schedule the next run."""
        self._timers.schedule(self._next_at, self.probe_next)
        member = self._table.present.next()
        if member is not None:
            self._prober.probe(member)
        self.probe_candidates(1 if member is not None else MAX_JOIN_PROBES)
        if member is not None:
            self._sync.start_first()

    def probe_candidates(self, count: int) -> None:
        """Probe join candidates that are due, at most `count`."""
        for address in self._candidates.due(count, self._table, self._clock.now):
            self._prober.join_probe(address)

    def probe_watched(self) -> None:
        """Probe the member that comes next on the ring of boot ids, and schedule the next run."""
        self._timers.schedule(self._next_at, self.probe_watched)
        member = self._table.next_alive(self._local.boot_id)
        if member is not None:
            self._prober.probe(member)

    def retry_dead(self) -> None:
        """Probe a dead member, the more seldom the larger the fleet, and schedule the next run."""
        every_s = self._config.retry_dead_interval_s * (0.8 + 0.4 * self._rng())
        self._timers.schedule(self._clock.now + every_s, self.retry_dead)
        dead = self._table.dead
        if not len(dead) or self._rng() * self._table.nodes > len(dead):
            return
        for member in dead.sample(1):
            self._prober.join_probe(
                member.status.peer_address, accusation=pending_accusation(member, self._local.boot_id)
            )
