"""Whole simulations: every measure, on as many fleets of that size as give it enough data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sim import drains, ec2_calls, policies, scenarios
from sim.cost import cost

Found = dict[str, Any]
Measure = Callable[[], Found]
MASS_NODES = 200
"""The most nodes of a mass interruption, unless it is requested by itself: five hundred nodes that plan their drains
twice a second take a while."""

NORMAL_RATE, BUSY_RATE = 0.15, 0.22
"""Requests a second at each node: an engine of the model can serve 0.26. So half of the fleet that is left has 114 %
of what it can do, and 167 %."""


@dataclass(frozen=True)
class Plan:
    """What a simulation of so many nodes runs.

    cost_s, loss_s: virtual seconds; fleets: for measures of which one fleet gives too few; deaths: in each of them;
    deaths_every_s: between two; wide: whether splits and mass interruptions run, too; deep: whether changing loads,
    boots, stops and a zone's failure do, in which each host receives updates of many others.
    """

    nodes: int
    cost_s: float
    loss_s: float
    fleets: int
    deaths: int
    deaths_every_s: float
    wide: bool = True
    deep: bool = True


def plan_for(nodes: int) -> Plan:
    """Plan as much of everything as a machine does in a few minutes."""
    if nodes < 50:
        return Plan(nodes, cost_s=60.0, loss_s=3_600.0, fleets=max(1, 1_000 // nodes), deaths=1, deaths_every_s=1.0)
    if nodes < 500:
        return Plan(nodes, cost_s=30.0, loss_s=900.0, fleets=4, deaths=20, deaths_every_s=2.0)
    if nodes <= 2_000:
        return Plan(nodes, cost_s=15.0, loss_s=60.0, fleets=1, deaths=30, deaths_every_s=1.0)
    return Plan(nodes, cost_s=5.0, loss_s=10.0, fleets=1, deaths=10, deaths_every_s=0.5, wide=False, deep=False)


def quick_plan(nodes: int) -> Plan:
    """Plan a little of everything, in seconds."""
    return Plan(nodes, cost_s=3.0, loss_s=20.0, fleets=1, deaths=1, deaths_every_s=1.0, wide=False)


def steps(plan: Plan, seed: int) -> Iterator[tuple[str, Measure]]:
    """Yield the measures by name, in order."""
    nodes = plan.nodes

    def deaths(loss: float) -> Found:
        return scenarios.deaths(nodes, seed, plan.fleets, plan.deaths, plan.deaths_every_s, loss)

    yield "cost", lambda: cost(nodes, seed, plan.cost_s, loads=plan.deep)
    yield "EC2 calls", lambda: ec2_calls.measure(nodes, seed)
    yield "deaths", lambda: deaths(0.0)
    yield "deaths, 5 % loss", lambda: deaths(0.05)
    yield "5 % loss", lambda: scenarios.lossy(nodes, seed, plan.loss_s, 0.05)
    yield "a changed state", lambda: scenarios.news(nodes, seed, min(nodes, 10))
    if plan.deep:
        yield "boots", lambda: scenarios.boots(nodes, seed, max(1, nodes // 10))
        yield "frozen for 30 s", lambda: scenarios.frozen(nodes, seed, max(1, nodes // 50), 30.0)
        yield "a zone fails", lambda: scenarios.zone_failure(nodes, seed)
    if plan.wide:
        yield "split for 30 s", lambda: scenarios.split(nodes, seed, 30.0)
        yield from mass_steps(min(nodes, MASS_NODES), seed)


def mass_steps(nodes: int, seed: int) -> Iterator[tuple[str, Measure]]:
    """Yield interruptions of half a fleet, which the other half can hardly replace, and cannot at all."""
    yield "half the fleet goes", lambda: drains.mass_interruption(nodes, seed, rate=NORMAL_RATE)
    yield "half goes, too busy", lambda: drains.mass_interruption(nodes, seed, rate=BUSY_RATE)


def policy_steps(seed: int) -> Iterator[tuple[str, Measure]]:
    """Yield the comparison of routing policies; the size of the fleet does not matter."""
    yield "policies", lambda: policies.compare(seed)


CHAPTERS: dict[str, Callable[[int, int], dict[str, Measure]]] = {
    "fleet": lambda nodes, seed: dict(steps(plan_for(nodes), seed)),
    "quick": lambda nodes, seed: dict(steps(quick_plan(nodes), seed)),
    "mass": lambda nodes, seed: dict(mass_steps(nodes, seed)),
    "policies": lambda _, seed: dict(policy_steps(seed)),
}
"""The suites by name: each returns its measures, for so many nodes and a seed."""
