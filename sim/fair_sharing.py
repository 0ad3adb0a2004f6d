"""Simulates tenants that share a full fleet, and prints how equally it serves them: `python -m sim.fair_sharing`.

The queue is the agent's own (`core/routing/admission`); a number of slots that generate tokens at a constant rate stand
for the engines. The measure is Jain's index over what each tenant was served as a part of its max-min fair share:

    fair shares: capacity is divided equally; what a tenant does not need is divided among the others, and so on
    x = tokens served to a tenant / its fair share; J = (sum x)^2 / (n * sum x^2): 1 is equal, 1/n is one tenant only
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from node_agent.core.routing.admission import Admission, Rejection

SLOTS = 16
SECONDS_PER_TOKEN = 0.02
CAPACITY = SLOTS / SECONDS_PER_TOKEN
"""Tokens a second that all slots generate together."""

GOAL = 0.95


@dataclass(frozen=True)
class Tenant:
    """A tenant. demand: tokens a second that it requests; answer: the mean tokens of one of its answers.

    states_max_tokens: whether its requests name the length of their answers; 512 tokens are assumed where not.
    """

    name: str
    demand: float
    answer: int = 100
    states_max_tokens: bool = True


@dataclass(frozen=True)
class Policy:
    """How requests wait. by_key: whether keys take turns; without, all are of one key, first come first served."""

    name: str
    by_key: bool


FAIR, FIFO = Policy("deficit round robin by key", by_key=True), Policy("first come, first served", by_key=False)
ASSUMED_ANSWER = 512


def fair_shares(demands: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Return the max-min fair shares of a capacity, in its unit."""
    shares: dict[str, float] = {}
    waiting = sorted(demands, key=lambda name: demands[name])
    for place, name in enumerate(waiting):
        equal = (capacity - sum(shares.values())) / (len(waiting) - place)
        shares[name] = min(demands[name], equal)
    return shares


def jains_index(values: Sequence[float]) -> float:
    """Return Jain's index of values that are at least 0: 1 where all are equal."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


@dataclass
class Outcome:
    """Tokens that each tenant requested and was served, and its refused requests."""

    requested: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def parts(self) -> dict[str, float]:
        """Return what each tenant was served as a part of its fair share of all that was served."""
        shares = fair_shares(self.requested, sum(self.served.values()))
        return {name: self.served[name] / share for name, share in shares.items()}

    @property
    def jain(self) -> float:
        """Jain's index of the parts."""
        return jains_index(list(self.parts().values()))


class _Run:
    """One simulation of tenants on virtual time."""

    def __init__(self, tenants: Sequence[Tenant], policy: Policy, seed: int) -> None:
        self._policy = policy
        self._random = random.Random(seed)  # noqa: S311 # a simulation
        self._admission = Admission()
        self._waiting: dict[int, tuple[Tenant, int]] = {}
        self._free = SLOTS
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = 0
        self.outcome = Outcome()
        for tenant in tenants:
            self._next_arrival(0.0, tenant)

    def _at(self, at: float, run: Callable[[float], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._agenda, (at, self._numbers, run))

    def run(self, duration_s: float) -> Outcome:
        """Run to the end."""
        while self._agenda[0][0] < duration_s:
            at, _, run = heapq.heappop(self._agenda)
            self._expire(at)
            run(at)
        return self.outcome

    def _next_arrival(self, at: float, tenant: Tenant) -> None:
        at += self._random.expovariate(tenant.demand / tenant.answer)
        self._at(at, lambda now: self._arrive(now, tenant))

    def _arrive(self, at: float, tenant: Tenant) -> None:
        self._next_arrival(at, tenant)
        answer = max(1, round(self._random.expovariate(1 / tenant.answer)))
        weight = answer if tenant.states_max_tokens else ASSUMED_ANSWER
        self.outcome.requested[tenant.name] += answer
        if self._free and self._admission.may_bypass_queue():
            self._admission.admitted(at)
            self._serve(at, tenant, answer, 0)
            return
        ticket = self._admission.enqueue(at, 0.5, tenant.name if self._policy.by_key else "", weight)
        for displaced in self._admission.displaced():
            self.outcome.refused[self._waiting.pop(displaced.number)[0].name] += 1
        if isinstance(ticket, Rejection):
            self.outcome.refused[tenant.name] += 1
        else:
            self._waiting[ticket.number] = (tenant, answer)

    def _expire(self, at: float) -> None:
        for ticket in self._admission.pop_expired(at):
            self.outcome.refused[self._waiting.pop(ticket.number)[0].name] += 1

    def _serve(self, at: float, tenant: Tenant, answer: int, paid: int) -> None:
        self._free -= 1
        self._at(at + answer * SECONDS_PER_TOKEN, lambda now: self._end(now, tenant, answer, paid))

    def _end(self, at: float, tenant: Tenant, answer: int, paid: int) -> None:
        self._free += 1
        self.outcome.served[tenant.name] += answer
        self._admission.used(tenant.name if self._policy.by_key else "", answer, paid)
        if (ticket := self._admission.next) is not None:
            self._admission.admitted(at, ticket)
            tenant, answer = self._waiting.pop(ticket.number)
            self._serve(at, tenant, answer, ticket.weight)


def run_tenants(tenants: Sequence[Tenant], policy: Policy, duration_s: float, seed: int) -> Outcome:
    """Simulate tenants for some virtual seconds; return what they were served."""
    return _Run(tenants, policy, seed).run(duration_s)


def cases() -> dict[str, list[Tenant]]:
    """Return the cases: in each, one tenant requests ten times as much as each of the others."""
    above, below = CAPACITY * 0.15, CAPACITY * 0.08
    many, long = [f"t{n}" for n in range(1, 10)], CAPACITY * 0.2
    return {
        "nine tenants above their share": [Tenant(name, above) for name in many] + [Tenant("x10", 10 * above)],
        "nine tenants below their share": [Tenant(name, below) for name in many] + [Tenant("x10", 10 * below)],
        "the large one sends long requests": [Tenant(name, long) for name in many[:6]]
        + [Tenant("x10", 10 * long, answer=400)],
        "the large one states no max_tokens": [Tenant(name, long) for name in many[:6]]
        + [Tenant("x10", 10 * long, answer=700, states_max_tokens=False)],
        "two tenants": [Tenant("t1", CAPACITY), Tenant("x10", 10 * CAPACITY)],
    }


def main() -> int:
    """Simulate all cases with both policies, print the table; return 1 where an index is below the goal."""
    parser = argparse.ArgumentParser(prog="python -m sim.fair_sharing")
    parser.add_argument("--duration-s", type=float, default=600.0, help="virtual seconds of each simulation")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    shown = Table(title=f"one tenant requests ten times as much, {given.duration_s:.0f} s, seed {given.seed}")
    for column in ("case", "policy", "Jain's index", "x10: of its share", "the others: least of theirs", "refused"):
        shown.add_column(column)
    worst = 1.0
    for name, tenants in cases().items():
        for policy in (FAIR, FIFO):
            outcome = run_tenants(tenants, policy, given.duration_s, given.seed)
            parts = outcome.parts()
            least = min(part for tenant, part in parts.items() if tenant != "x10")
            worst = min(worst, outcome.jain) if policy is FAIR else worst
            refused = str(sum(outcome.refused.values()))
            shown.add_row(name, policy.name, f"{outcome.jain:.3f}", f"{parts['x10']:.2f}", f"{least:.2f}", refused)
    Console(width=150).print(shown)
    return 0 if worst >= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
