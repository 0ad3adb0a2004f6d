"""Simulates the limits of one key in a fleet, and prints how well they hold: `python -m sim.key_limits`.

The decisions are the agent's own (`core/access/key_usage`); gossip is a delay and a loss. Two figures are what a limit
promises, both as parts of it: the most that was admitted in any minute, and what was admitted in a minute of demand
above it.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from node_agent.core.access.caller import KeyLimits
from node_agent.core.access.key_usage import Admitted, KeyUsage, Wait, digest_of
from node_agent.core.access.peer_usage import UsageReport, fleet_shape
from node_agent.core.access.usage_share import hold_s, report_interval_s, settle_s

POLL_S = 0.1
MINUTE_S = 60.0

Arrivals = Iterator[tuple[float, int, int]]
"""(seconds, the node's number, tokens of the request), in any order."""


@dataclass(frozen=True)
class Play:
    """One simulation.

    loss: the part of reports that are lost, for each receiver; dies: (seconds, node); answer_s: how long answers take.
    """

    nodes: int
    limits: KeyLimits
    arrivals: Sequence[tuple[float, int, int]]
    duration_s: float
    loss: float = 0.0
    dies: tuple[float, int] | None = None
    seed: int = 1
    answer_s: float = 1.0


@dataclass
class Outcome:
    """What was admitted: (seconds, tokens), and how many requests were refused or waited."""

    admitted: list[tuple[float, int]] = field(default_factory=list)
    refused: int = 0
    waits_s: list[float] = field(default_factory=list)

    def most_in_a_minute(self, *, by_tokens: bool = False) -> int:
        """Return the most that was admitted in any minute."""
        most = found = begin = 0
        ordered = sorted(self.admitted)
        for at, tokens in ordered:
            found += tokens if by_tokens else 1
            while ordered[begin][0] <= at - MINUTE_S:
                found -= ordered[begin][1] if by_tokens else 1
                begin += 1
            most = max(most, found)
        return most

    def in_minute(self, begin_s: float, *, by_tokens: bool = False) -> int:
        """Return what was admitted in the minute from `begin_s` on."""
        return sum(tokens if by_tokens else 1 for at, tokens in self.admitted if begin_s <= at < begin_s + MINUTE_S)


class _Fleet:
    """The nodes of a play, and the agenda of their events."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._random = random.Random(play.seed)  # noqa: S311 # a simulation
        digest = digest_of("k")
        self._ids = [self._random.randbytes(6) for _ in range(play.nodes)]
        self._usages = [KeyUsage(digest, play.limits) for _ in range(play.nodes)]
        self._alive = set(range(play.nodes))
        self._held = [0] * play.nodes
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = 0
        self._shape_all()
        self.outcome = Outcome()

    def _shape_all(self) -> None:
        ids = [self._ids[number] for number in self._alive]
        self._shapes = [fleet_shape(own, ids, len(ids)) for own in self._ids]

    def _at(self, at: float, run: Callable[[float], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._agenda, (at, self._numbers, run))

    def run(self) -> Outcome:
        """Run the play to its end."""
        for at, node, tokens in self._play.arrivals:
            self._at(at, partial(self._arrive, node, tokens))
        for node in range(self._play.nodes):
            self._at(self._random.random(), partial(self._tick, node))
        if self._play.dies is not None:
            at, victim = self._play.dies
            self._at(at, lambda now: self._die(victim))
            self._at(at + 6.0, lambda now: self._shape_all())
        while self._agenda and self._agenda[0][0] <= self._play.duration_s:
            at, _, run = heapq.heappop(self._agenda)
            run(at)
        return self.outcome

    def _die(self, node: int) -> None:
        self._alive.discard(node)

    def _tick(self, node: int, at: float) -> None:
        self._report(at, node)
        self._at(at + report_interval_s(self._play.nodes), partial(self._tick, node))

    def _report(self, at: float, node: int) -> None:
        """Send a report to all nodes; it arrives within the time that gossip needs to spread."""
        if node not in self._alive:
            return
        usage = self._usages[node]
        report = usage.report(at)
        if not any(report):
            return
        spread_s = settle_s(self._play.nodes, 1) - report_interval_s(1)
        for other in self._alive:
            if other != node and self._random.random() >= self._play.loss:
                after_s = spread_s * self._random.random()
                self._at(at + after_s, partial(self._received, other, node, report))

    def _received(self, node: int, sender: int, report: UsageReport, at: float) -> None:
        self._usages[node].peers.record(at, self._ids[sender], report)

    def _arrive(self, node: int, tokens: int, at: float) -> None:
        if node not in self._alive:
            return
        usage = self._usages[node]
        if usage.demand(at, tokens):
            self._report(at, node)
        self._decide(at, node, tokens, at, is_held=False)

    def _decide(self, at: float, node: int, tokens: int, came_at: float, *, is_held: bool) -> None:
        usage, shape = self._usages[node], self._shapes[node]
        decision = usage.decide(at, tokens, shape)
        may_hold = is_held or usage.may_hold(at, self._held[node], tokens)
        is_late = at - came_at > hold_s(shape.settle_s)
        if isinstance(decision, Admitted) and (is_held or not self._held[node]):
            self._held[node] -= is_held
            use = usage.admit(at, tokens, 0)
            self.outcome.admitted.append((at, tokens))
            self.outcome.waits_s.append(at - came_at)
            self._at(at + self._play.answer_s, lambda now: usage.close(now, use))
        elif isinstance(decision, Admitted | Wait) and may_hold and not is_late:
            self._held[node] += not is_held
            self._at(at + POLL_S, lambda now: self._decide(now, node, tokens, came_at, is_held=True))
        else:
            self._held[node] -= is_held
            self.outcome.refused += 1


def run_play(play: Play) -> Outcome:
    """Run a play; return its outcome."""
    return _Fleet(play).run()


def steady(rate: float, weights: Sequence[float], duration_s: float, seed: int, tokens: int = 1) -> Arrivals:
    """Yield arrivals of `rate` requests a second (Poisson), at nodes by their weights."""
    rng = random.Random(seed)  # noqa: S311 # a simulation
    at = 0.0
    while (at := at + rng.expovariate(rate)) < duration_s:
        yield at, rng.choices(range(len(weights)), weights)[0], tokens


def bursts(count: int, nodes: Sequence[int], instants: Sequence[float], tokens: int = 1) -> Arrivals:
    """Yield `count` requests at each of the nodes at each of the instants, all at once."""
    for at in instants:
        for node in nodes:
            for _ in range(count):
                yield at, node, tokens


WEIGHTS: dict[str, Callable[[int], float]] = {
    "all alike": lambda node: 1.0,
    "one node": lambda node: float(node == 0),
    "skewed": lambda node: 1.0 / (node + 1) ** 2,
}
"""The part of clients that each node has, by the node's number."""

LASTS_S = 155.0
FULL_FROM_S = 90.0
"""A minute of steady demand that is measured begins here."""


def overloaded(nodes: int, limit: int, where: str, seed: int, **more: Any) -> Play:
    """Return a play of five times the limit's requests. where: of WEIGHTS; more: fields of the Play."""
    weights = [WEIGHTS[where](node) for node in range(nodes)]
    arrivals = list(steady(5 * limit / MINUTE_S, weights, LASTS_S, seed))
    return Play(nodes, KeyLimits(requests_per_minute=limit), arrivals, LASTS_S, seed=seed, **more)


def all_at_once(nodes: int, limit: int, seed: int, **more: Any) -> Play:
    """Return a play in which all nodes get twice the limit's requests at the same instants, after a quiet half minute.

    One node has half of the limit's demand before; more: fields of the Play.
    """
    before = steady(limit / (2 * MINUTE_S), [1.0], LASTS_S, seed)
    arrivals = [*before, *bursts(max(1, 2 * limit // nodes), range(nodes), (40.0, 70.0, 101.0))]
    return Play(nodes, KeyLimits(requests_per_minute=limit), arrivals, LASTS_S, seed=seed, **more)


def plays(seed: int, loss: float) -> Iterator[tuple[str, int, int, Play]]:
    """Yield (name, nodes, limit, play)."""
    for nodes in (3, 10, 100):
        for limit in (60, 600):
            for where in WEIGHTS:
                yield where, nodes, limit, overloaded(nodes, limit, where, seed, loss=loss)
            dies = (80.0, 0)
            yield (
                "all alike, a node dies",
                nodes,
                limit,
                overloaded(nodes, limit, "all alike", seed, loss=loss, dies=dies),
            )
            yield "all at once", nodes, limit, all_at_once(nodes, limit, seed, loss=loss)


def main() -> int:
    """Simulate, and print the table; return 0."""
    parser = argparse.ArgumentParser(prog="python -m sim.key_limits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loss", type=float, default=0.2, help="the part of reports that are lost")
    given = parser.parse_args()
    shown = Table(title=f"requests a minute of one key, {given.loss:.0%} of reports lost, seed {given.seed}")
    for column in ("clients are at", "nodes", "limit", "most in a minute", "in a full minute", "longest wait"):
        shown.add_column(column)
    for name, nodes, limit, play in plays(given.seed, given.loss):
        outcome = run_play(play)
        full = "" if name == "all at once" else f"{outcome.in_minute(FULL_FROM_S) / limit:.0%}"
        most = f"{outcome.most_in_a_minute() / limit:.0%}"
        shown.add_row(name, str(nodes), str(limit), most, full, f"{max(outcome.waits_s):.1f} s")
    Console(width=120).print(shown)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
