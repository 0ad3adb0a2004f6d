"""Records every change of liveness that any host reports, with its instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from node_agent.core.membership import ChangeReason, MemberChanged
from node_agent.core.node.status import Liveness
from sim.fleet import Fleet
from sim.host import Host
from sim.network import NetworkConditions

SETTLE_S = 3.0
MOST_TABLES = 500
"""Hosts with a table each; larger fleets begin with one shared table (`sim/shared_roster`)."""


@dataclass
class Observations:
    """All reported changes, by their subject."""

    of: dict[str, list[tuple[float, str, Liveness, ChangeReason]]] = field(default_factory=dict)

    def __call__(self, host: Host, change: MemberChanged) -> None:
        """Record a change that a host reports: what a Fleet's `watch` is called with."""
        seen = self.of.setdefault(change.status.instance_id, [])
        seen.append((host.scheduler.now, host.instance_id, change.after, change.reason))

    def delays(self, subject: str, after: Liveness, since: float) -> list[float]:
        """Return how long after `since` each observer first reported that liveness of the subject."""
        first: dict[str, float] = {}
        for at, by, held, _ in self.of.get(subject, ()):
            if held is after and at >= since:
                first.setdefault(by, at - since)
        return list(first.values())

    def count(self, after: Liveness, of: Callable[[str], bool] = lambda _: True) -> int:
        """Count the (node, incarnation) that any host reported so, once for each wave of reports."""
        waves = 0
        for subject, seen in self.of.items():
            if of(subject):
                last = -1e9
                for at, _, held, _ in seen:
                    if held is after and at - last > 5.0:
                        waves += 1
                    if held is after:
                        last = at
        return waves


def met(nodes: int, seed: int, conditions: NetworkConditions | None = None) -> tuple[Fleet, Observations]:
    """Build a fleet of so many nodes that know each other, and its observations."""
    sightings = Observations()
    fleet = Fleet(seed, conditions, sightings)
    fleet.gather(nodes, share=nodes > MOST_TABLES)
    fleet.pass_time(SETTLE_S)
    return fleet, sightings
