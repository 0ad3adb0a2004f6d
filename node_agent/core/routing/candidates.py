"""The nodes that may serve a model: how much each has to do, when it is full, and the bound that they share.

A load is reported now and then, by gossip or with an answer. Between two reports a node counts what it has sent itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from node_agent.contract.states import NodeState
from node_agent.core.node.status import IDLE, Load, NodeStatus
from node_agent.core.routing.circuit_breaker import CircuitBreaker
from node_agent.core.routing.hash_ring import HashRing

BOUND = 1.25
SLACK = 4
"""Requests; without them a nearly idle fleet would forward every request."""

MAX_WAITING = 4
"""Waiting requests from which on an engine is full: another one would only wait, too."""

UNKNOWN_PLACES = 256
"""How many requests an engine that was never full is taken to run at once: vLLM's --max-num-seqs on large GPUs."""

FULL_KV = 0.98


class LoadSource(Protocol):
    """The source of a node's newest load: membership's Member."""

    load: Load
    load_version: int


class Candidate:
    """A node that may serve. open_requests: this node's there; counted: its part in the pool's total.

    places: how many requests its engine runs at once, as far as its reports show.
    """

    __slots__ = (
        "breaker",
        "counted",
        "is_ready",
        "load",
        "name",
        "open_at_report",
        "open_requests",
        "places",
        "source",
        "status",
        "version",
    )

    def __init__(self, status: NodeStatus, source: LoadSource, breaker: CircuitBreaker, opened: int) -> None:
        self.status = status
        self.name = status.instance_id
        self.is_ready = status.state is NodeState.READY
        self.source = source
        self.breaker = breaker
        self.open_requests = opened
        self.open_at_report = opened
        self.version = source.load_version
        self.load = source.load
        self.places = UNKNOWN_PLACES
        self.counted = 0

    def refresh(self) -> None:
        """Use membership's load where it is new."""
        source = self.source
        if source.load_version != self.version:
            self.version = source.load_version
            self.load_reported(source.load)

    def load_reported(self, load: Load) -> None:
        """Record the node's newest load, from gossip or from an answer."""
        self.load = load
        self.open_at_report = self.open_requests
        if load.waiting or load.kv_use >= FULL_KV or load.running > self.places:
            self.places = load.running

    def in_flight(self) -> int:
        """Return its reported requests, and those that this node has sent it since."""
        self.refresh()
        running, waiting, *_ = self.load
        return max(self.open_requests, running + waiting + self.open_requests - self.open_at_report)

    def is_full(self, entries: int) -> bool:
        """Return whether another request would only wait there, by its newest reported load.

        Between two reports a node takes as many requests as end there, as many as its engine has places free, and its
        part of a few more. Otherwise a burst, or the whole queue, would move into the engine's own queue, where keys
        take no turns.

        Args:
            entries: nodes that send requests there, each by the same report.
        """
        self.refresh()
        load = self.load
        if load.waiting >= MAX_WAITING or load.kv_use >= FULL_KV:
            return True
        more = self.open_requests - self.open_at_report
        if load.waiting:
            return more >= max(1, (MAX_WAITING - load.waiting) // entries)
        free = max(0, self.places - load.running)
        return more >= free + max(1, (MAX_WAITING + self.places // 4) // entries)


class OwnLoad:
    """The load of this node's own engine, as last measured."""

    def __init__(self) -> None:
        self.load = IDLE
        self.load_version = 0

    def set(self, load: Load) -> None:
        """Set the load of a new measurement; each counts as new, even if it is equal."""
        self.load = load
        self.load_version += 1


class ModelPool:
    """The nodes that serve one model, and their total load."""

    def __init__(self) -> None:
        self.ring: HashRing[Candidate] = HashRing()
        self._order: list[Candidate] = []
        self._next = 0
        self._total = 0

    def update(self, candidates: Mapping[str, Candidate]) -> None:
        """Set the pool's nodes."""
        for gone in [candidate.name for candidate in self.ring if candidates.get(candidate.name) is not candidate]:
            self.ring.remove(gone)
        self.ring.add_all({name: one for name, one in candidates.items() if name not in self.ring})
        self._order = list(self.ring)
        self._next = 0
        self._total = sum(candidate.counted for candidate in self._order)

    def recount(self) -> None:
        """Update the total by the next node's load: one for each request, so that the total is never much older."""
        order = self._order
        self._next = at = self._next + 1 if self._next + 1 < len(order) else 0
        candidate = order[at]
        in_flight = candidate.in_flight()
        self._total += in_flight - candidate.counted
        candidate.counted = in_flight

    def rotation(self) -> Iterator[Candidate]:
        """Yield every node once, from the current position on: as good as at random."""
        for at in range(self._next - len(self._order), self._next):
            yield self._order[at]

    @property
    def bound(self) -> float:
        """The most requests in flight at a node that is not overloaded: BOUND times the mean, and SLACK."""
        return BOUND * self._total / len(self._order) + SLACK
