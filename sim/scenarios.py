"""Membership's scenarios, each on a fleet of its own: failure detection, propagation, joins, partitions."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Liveness
from node_agent.core.routing.router import Route, RouteRequest
from sim.entry import Entry
from sim.figures import spread
from sim.fleet import Fleet
from sim.network import NetworkConditions
from sim.observations import SETTLE_S, met

ENTRIES = 16
ROUTES_PER_S = 50.0
"""Of each entry that is looked at."""


@dataclass
class FailureStats:
    """Counts and delays of node failures in several fleets."""

    suspected: list[float] = field(default_factory=list)
    dead: list[float] = field(default_factory=list)
    deaths: int = 0
    routes: int = 0
    stale: int = 0
    seconds: float = 0.0
    falsely_dead: int = 0


def deaths(nodes: int, seed: int, fleets: int, count: int, every_s: float, loss: float) -> dict[str, Any]:
    """Terminate instances one after another; measure detection at each survivor, and routes to them meanwhile.

    Args:
        nodes: of each fleet.
        seed: of all randomness.
        fleets: how many fleets lose nodes, one after another, where one has too few to lose.
        count: of instances, in each fleet.
        every_s: the mean time between two of them.
        loss: the share of datagrams that are lost, from 0 to 1.

    Returns:
        Counts and delays of all fleets together; stale routes are those to a node that is gone or draining.
    """
    told = FailureStats()
    for number in range(fleets):
        _deaths(nodes, seed * 10_000 + number, count, every_s, loss, told)
    return {
        "deaths": told.deaths,
        "suspected_s": spread(told.suspected),
        "dead_s": spread(told.dead),
        "falsely_dead": told.falsely_dead,
        "routes": told.routes,
        "stale_routes": told.stale,
        "stale_share": round(told.stale / told.routes, 6),
        "virtual_s": round(told.seconds, 1),
    }


def _deaths(nodes: int, seed: int, count: int, every_s: float, loss: float, told: FailureStats) -> None:
    fleet, sightings = met(nodes, seed, NetworkConditions(loss=loss))
    rng = random.Random(f"deaths {seed}")  # noqa: S311 # a simulation
    hosts = list(fleet.hosts.values())
    victims = rng.sample(hosts, count)
    entries = [
        Entry(fleet.scheduler, host, f"entry {seed} {number}")
        for number, host in enumerate([host for host in hosts if host not in victims][:ENTRIES])
    ]
    routes = RouteCheck(fleet, entries, seed)
    died: dict[str, float] = {}
    for victim in victims:
        fleet.pass_time(every_s * (0.5 + rng.random()))
        died[victim.instance_id] = fleet.scheduler.now
        victim.terminate()
    fleet.pass_time(20.0)
    for name, at in died.items():
        told.suspected += sightings.delays(name, Liveness.SUSPECT, at)
        told.dead += sightings.delays(name, Liveness.DEAD, at)
    told.deaths += len(died)
    told.routes += routes.routes
    told.stale += routes.stale
    told.seconds += fleet.scheduler.now - SETTLE_S
    told.falsely_dead += sightings.count(Liveness.DEAD, lambda name: name not in died)


class RouteCheck:
    """Routes all the time at some entries, and counts routes to a node that is gone or draining."""

    def __init__(self, fleet: Fleet, entries: list[Entry], seed: int) -> None:
        self.routes = 0
        self.stale = 0
        self._fleet = fleet
        self._entries = entries
        self._random = random.Random(f"routes {seed}")  # noqa: S311 # a simulation
        fleet.scheduler.every(0.1, self._route)

    def _route(self) -> None:
        for entry in self._entries:
            for _ in range(round(ROUTES_PER_S / 10)):
                route = entry.route(RouteRequest("llama", self._random.getrandbits(64)))
                if isinstance(route, Route):
                    target = self._fleet.hosts[route.node.instance_id]
                    self.routes += 1
                    self.stale += not target.is_running or not target.membership.status.state.takes_requests


def lossy(nodes: int, seed: int, seconds: float, loss: float) -> dict[str, Any]:
    """Lose, delay and repeat datagrams while no node fails; count false suspicions and deaths."""
    fleet, sightings = met(nodes, seed, NetworkConditions(loss=loss, repeated=0.01, late=0.02))
    fleet.pass_time(seconds)
    hours = nodes * seconds / 3600
    return {
        "node_hours": round(hours, 3),
        "falsely_suspected": sightings.count(Liveness.SUSPECT),
        "falsely_dead": sightings.count(Liveness.DEAD),
    }


def news(nodes: int, seed: int, count: int) -> dict[str, Any]:
    """Measure how long a new state takes to reach each other node."""
    fleet, _ = met(nodes, seed)
    hosts = list(fleet.hosts.values())
    delays: list[float] = []
    for going in random.Random(f"news {seed}").sample(hosts, count):  # noqa: S311 # a simulation
        began = fleet.scheduler.now
        going.announce(NodeState.DRAINING)
        waiting = [host for host in hosts if host is not going]
        while waiting and fleet.scheduler.now - began < 60.0:
            fleet.pass_time(0.05)
            late = [h for h in waiting if h.membership.members[going.instance_id].status.state is NodeState.READY]
            delays += [fleet.scheduler.now - began] * (len(waiting) - len(late))
            waiting = late
        delays += [60.0] * len(waiting)
    return {"known_s": spread(delays)}


def boots(nodes: int, seed: int, count: int) -> dict[str, Any]:
    """Boot so many at once; measure how long until each node knows all."""
    fleet, _ = met(nodes, seed)
    bytes_before = fleet.network.octets
    newcomers = fleet.boot(count)
    began = fleet.scheduler.now
    everyone = list(fleet.hosts.values())
    knows_all: dict[str, float] = {}
    while len(knows_all) < len(everyone) and fleet.scheduler.now - began < 180.0:
        fleet.pass_time(0.25)
        for host in everyone:
            if host.instance_id not in knows_all and host.membership.stats["present"] == len(everyone) - 1:
                knows_all[host.instance_id] = fleet.scheduler.now - began
    unfinished = len(everyone) - len(knows_all)
    return {
        "booted": len(newcomers),
        "all_known_s": spread([*knows_all.values(), *[180.0] * unfinished]),
        "bytes_per_node": round((fleet.network.octets - bytes_before) / len(everyone)),
    }


def zone_failure(nodes: int, seed: int) -> dict[str, Any]:
    """Terminate one of three zones at once."""
    fleet, sightings = met(nodes, seed)
    hosts = list(fleet.hosts.values())
    gone = [host for host in hosts if host.membership.status.pool.zone == "us-east-1a"]
    began = fleet.scheduler.now
    for host in gone:
        host.terminate()
    fleet.pass_time(40.0)
    names = {host.instance_id for host in gone}
    return {
        "gone": len(gone),
        "suspected_s": spread(d for host in gone for d in sightings.delays(host.instance_id, Liveness.SUSPECT, began)),
        "dead_s": spread(d for host in gone for d in sightings.delays(host.instance_id, Liveness.DEAD, began)),
        "falsely_dead": sightings.count(Liveness.DEAD, lambda name: name not in names),
    }


def split(nodes: int, seed: int, seconds: float) -> dict[str, Any]:
    """Partition the network in two for a while; measure how long until all are alive to all again."""
    fleet, _ = met(nodes, seed)
    hosts = list(fleet.hosts.values())
    third = len(hosts) // 3
    fleet.split(hosts[:third], hosts[third:])
    fleet.pass_time(seconds)
    sides = [len(side) - 1 for side in (hosts[:third], hosts[third:])]
    apart = sum(host.membership.stats["present"] == sides[number >= third] for number, host in enumerate(hosts))
    fleet.split()
    healed_at = fleet.scheduler.now
    whole: dict[str, float] = {}
    while len(whole) < len(hosts) and fleet.scheduler.now - healed_at < 180.0:
        fleet.pass_time(0.5)
        for host in hosts:
            if host.instance_id not in whole and host.membership.stats["present"] == len(hosts) - 1:
                whole[host.instance_id] = fleet.scheduler.now - healed_at
    return {
        "apart": round(apart / len(hosts), 3),
        "healed_s": spread([*whole.values(), *[180.0] * (len(hosts) - len(whole))]),
    }


def frozen(nodes: int, seed: int, count: int, seconds: float) -> dict[str, Any]:
    """Stop some processes and resume them; count whom they declare dead, and measure how long until they are back."""
    fleet, sightings = met(nodes, seed)
    hosts = list(fleet.hosts.values())
    stopped = random.Random(f"frozen {seed}").sample(hosts, count)  # noqa: S311 # a simulation
    for host in stopped:
        host.freeze()
    fleet.pass_time(seconds)
    thawed_at = fleet.scheduler.now
    names = {host.instance_id for host in stopped}
    for host in stopped:
        host.resume()
    back: dict[str, float] = {}
    while len(back) < len(hosts) and fleet.scheduler.now - thawed_at < 120.0:
        fleet.pass_time(0.25)
        for host in hosts:
            if host.instance_id not in back and host.membership.stats["present"] == len(hosts) - 1:
                back[host.instance_id] = fleet.scheduler.now - thawed_at
    blamed = sum(
        held is Liveness.DEAD and at >= thawed_at and by in names and subject not in names
        for subject, seen in sightings.of.items()
        for at, by, held, _ in seen
    )
    return {"stopped": count, "blamed": blamed, "back_s": spread([*back.values(), *[120.0] * (len(hosts) - len(back))])}
