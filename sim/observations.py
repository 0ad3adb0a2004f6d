"""A fleet that is watched: whatever any host says of any other, with its instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from node_agent.core.membership import MemberChanged
from node_agent.core.node.status import Liveness
from sim.fleet import Fleet
from sim.host import Host
from sim.network import NetworkConditions

SETTLE_S = 3.0
MOST_TABLES = 500
"""Hosts with a table each; more begin with one together (`sim/shared_roster`)."""


@dataclass
class Observations:
    """Everything that any host said of any other, by whom it was about."""

    of: dict[str, list[tuple[float, str, Liveness, str]]] = field(default_factory=dict)

    def __call__(self, host: Host, change: MemberChanged) -> None:
        seen = self.of.setdefault(change.status.instance_id, [])
        seen.append((host.scheduler.now, host.instance_id, change.after, change.why))

    def delays(self, subject: str, after: Liveness, since: float) -> list[float]:
        """How long after `since` each observer first held the subject for that."""
        first: dict[str, float] = {}
        for at, by, held, _ in self.of.get(subject, ()):
            if held is after and at >= since:
                first.setdefault(by, at - since)
        return list(first.values())

    def count(self, after: Liveness, of: Callable[[str], bool] = lambda _: True) -> int:
        """How many (node, incarnation) were held for that by anybody at all, counted once for each wave of opinions."""
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
    """A fleet of so many that have met, and all that they will say."""
    sightings = Observations()
    fleet = Fleet(seed, conditions, sightings)
    fleet.gather(nodes, share=nodes > MOST_TABLES)
    fleet.pass_time(SETTLE_S)
    return fleet, sightings
