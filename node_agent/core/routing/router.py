"""Route requests to engines: consistent hashing with bounded loads on a request's beginning.

Every node decides for itself, from its view of the membership; all decide alike because the ring is the same
(`core/routing/hash_ring`). For each request, the first rule that finds a node that can serve it, within the bound:

1. the target of the last node's hand-off;
2. where it has no key: this node, which saves a hop; else the least loaded of the next few in rotation;
3. the owner of its session, or of its conversation's beginning, where the prefix cache is warm;
4. the least loaded of the next few in the key's order, so that overflowing requests stay together, too;

and where all of these are beyond the bound, the least loaded of them and of some more;

5. where every breaker of the remaining nodes is open, the least loaded of them all the same, if it is not full: a
   breaker keeps requests from a node that fails while others work, and must not become an outage of its own.

A node can serve a request if it has the model, was not tried for this request, is accepted by `RouteRequest.can_serve`,
has its breaker closed, and is not full. The bound is BOUND times the mean in flight, and SLACK more (Mirrokni, Thorup,
Zadimoghaddam 2018). Ready nodes come before those at risk, and after a loss other pools before the lost one's, because
EC2 reclaims pools. Suspects, draining and unready nodes are not on the ring.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from node_agent.contract.states import NodeState
from node_agent.core.node.status import Load, NodeStatus, Pool
from node_agent.core.routing.candidates import Candidate, LoadSource, ModelPool, OwnLoad
from node_agent.core.routing.circuit_breaker import CircuitBreaker

NEAR = 4
"""How many nodes in a key's order are compared before all others."""

NO_SHORTCUT = -1.0


@dataclass(frozen=True, slots=True)
class Route:
    """The chosen node, and the reason for the choice."""

    node: NodeStatus
    reason: str


class NoRoute(Enum):
    """Why there is no route."""

    NO_NODE = "no-node"
    NO_MODEL = "no-model"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """The properties of a request that routing depends on."""

    model: str | None
    """None where any will do."""

    key: int | None = None
    """The key of its session or its beginning (`core/routing/affinity`); None where it has none."""

    by_session: bool = False
    """True where the client named the session."""

    tried: Collection[str] = ()
    """Instance ids that lost it already."""

    can_serve: Callable[[NodeStatus], bool] | None = None
    """Whether a node's engine can serve it; None where any can."""

    avoid: Pool | None = None
    """The pool of the last loss."""

    handoff_target: str | None = None
    """The instance id that the last node handed it off to."""

    is_continuation: bool = False
    """True where its answer has begun: then a full node is better than none."""

    last_resort: bool = False
    """True where a node with an open breaker is better than none, also where others are only full."""


class Router:
    """Chooses the engine of each request. own_id: this node's instance id."""

    def __init__(self, own_id: str) -> None:
        self.own_load = OwnLoad()  # the caller keeps it up to date
        self._own_id = own_id
        self._candidates: dict[str, Candidate] = {}
        self._pools: dict[str, ModelPool] = {}
        self._breakers: dict[str, CircuitBreaker] = {}

    def update(self, serving: Iterable[NodeStatus], sources: Mapping[str, LoadSource], own: NodeStatus) -> None:
        """Set the nodes that may serve; called when membership's view or this node's status changes.

        serving: peers; sources: each peer's load, by instance id; own: this node's status, in any state.
        """
        statuses = [*serving, own] if own.state.takes_requests else list(serving)
        candidates: dict[str, Candidate] = {}
        by_model: dict[str, dict[str, Candidate]] = {}
        for status in statuses:
            source = self.own_load if status.instance_id == self._own_id else sources[status.instance_id]
            candidate = self._candidate(status, source)
            candidates[candidate.name] = candidate
            if status.model:
                by_model.setdefault(status.model, {})[candidate.name] = candidate
        self._candidates = candidates
        self._pools = {model: self._pools.get(model) or ModelPool() for model in by_model}
        for model, pool in self._pools.items():
            pool.update(by_model[model])
        # This node's own breaker has no source; it is removed with its engine, and the next engine gets a new one.
        self._breakers = {
            name: breaker
            for name, breaker in self._breakers.items()
            if name in sources or (name == self._own_id and name in candidates)
        }

    def _candidate(self, status: NodeStatus, source: LoadSource) -> Candidate:
        name = status.instance_id
        known = self._candidates.get(name)
        if known is not None and known.status.model == status.model and known.source is source:
            known.status = status
            known.is_ready = status.state is NodeState.READY
            return known
        opened = known.open_requests if known is not None else 0
        return Candidate(status, source, self._breakers.setdefault(name, CircuitBreaker()), opened)

    # what happened

    def request_started(self, name: str) -> None:
        """Record that this node sends that one a request."""
        if candidate := self._candidates.get(name):
            candidate.open_requests += 1

    def request_ended(self, name: str) -> None:
        """Record that a request ended, with any outcome."""
        candidate = self._candidates.get(name)
        if candidate is not None and candidate.open_requests:
            candidate.open_requests -= 1
            candidate.open_at_report = min(candidate.open_at_report, candidate.open_requests)

    def load_reported(self, name: str, load: Load) -> None:
        """Record the load in a peer's answer: newer than gossip, and of just the peers that this node uses."""
        if candidate := self._candidates.get(name):
            candidate.load_reported(load)

    def succeeded(self, name: str) -> None:
        """Record that the node served a request: its breaker closes."""
        if breaker := self._breakers.get(name):
            breaker.succeeded()

    def failed(self, name: str, now: float) -> None:
        """Record that the node lost a request that it had accepted, by its own fault."""
        if breaker := self._breakers.get(name):
            breaker.failed(now)

    def undecided(self, name: str) -> None:
        """Record that a request ended there with an outcome that does not show whether the node works."""
        if breaker := self._breakers.get(name):
            breaker.undecided()

    # what to do

    def models(self) -> frozenset[str]:
        """Return all models that are served now."""
        return frozenset(self._pools)

    def serves(self, model: str | None) -> bool:
        """Return whether the model is served now; None for any model."""
        return bool(self._pools) if model is None else model in self._pools

    def route(self, request: RouteRequest, now: float) -> Route | NoRoute:
        """Choose a request's node. now: seconds, of the same clock as in `failed`."""
        pool = self._pool_for(request.model)
        if pool is None:
            return NoRoute.NO_MODEL if self._pools else NoRoute.NO_NODE
        pool.recount()
        bound = pool.bound
        if request.handoff_target is not None:
            target = self._candidates.get(request.handoff_target)
            if target is not None and target.name in pool.ring and self._can_take(target, request, now):
                return self._route_to(target, "handed-over", request, now)
        if request.key is None:
            chosen, reason = self._without_key(pool, request, now, bound)
        else:
            near = self._first_candidates(pool.ring.walk(request.key), request, now, bound)
            chosen, reason = self._with_key(near, pool, request, now, bound)
        if chosen is None:
            chosen, reason = self._last_resort(pool, request), "last-resort"
        return self._route_to(chosen, reason, request, now) if chosen is not None else NoRoute.FULL

    def _pool_for(self, model: str | None) -> ModelPool | None:
        if model is not None:
            return self._pools.get(model)
        return max(self._pools.values(), key=lambda pool: len(pool.ring), default=None)

    def _can_take(self, candidate: Candidate, request: RouteRequest, now: float) -> bool:
        if not candidate.breaker.allows(now) or not self._is_eligible(candidate, request):
            return False
        return request.is_continuation or not candidate.is_full(len(self._candidates))

    def _is_eligible(self, candidate: Candidate, request: RouteRequest) -> bool:
        if candidate.name in request.tried:
            return False
        return request.can_serve is None or request.can_serve(candidate.status)

    def _last_resort(self, pool: ModelPool, request: RouteRequest) -> Candidate | None:
        remaining = [candidate for candidate in pool.rotation() if self._is_eligible(candidate, request)]
        if not request.last_resort and any(candidate.breaker.is_closed for candidate in remaining):
            return None  # these are full, not broken
        usable = [
            candidate
            for candidate in remaining
            if request.is_continuation or not candidate.is_full(len(self._candidates))
        ]
        return min(usable, key=lambda candidate: (not candidate.is_ready, candidate.in_flight()), default=None)

    def _first_candidates(
        self, order: Iterable[Candidate], request: RouteRequest, now: float, shortcut_bound: float
    ) -> list[Candidate]:
        """Return the first few of the best kind in order; only the first where its load is within `shortcut_bound`."""
        kinds: tuple[list[Candidate], ...] = ([], [], [], [])
        avoid = request.avoid
        for candidate in order:
            if not self._can_take(candidate, request, now):
                continue
            kind = (0 if candidate.is_ready else 2) + (avoid is not None and candidate.status.pool == avoid)
            few = kinds[kind]
            few.append(candidate)
            if kind == 0 and (len(few) == NEAR or (len(few) == 1 and candidate.in_flight() <= shortcut_bound)):
                return few
        return next((few[:NEAR] for few in kinds if few), [])

    def _without_key(
        self, pool: ModelPool, request: RouteRequest, now: float, bound: float
    ) -> tuple[Candidate | None, str]:
        own = self._candidates.get(self._own_id)
        order = pool.rotation()
        if own is not None and own.name in pool.ring:
            near = self._first_candidates(itertools.chain((own,), order), request, now, bound)
            if near and near[0] is own and own.in_flight() <= bound:
                return own, "local"
        else:
            near = self._first_candidates(order, request, now, NO_SHORTCUT)
        return min(near, key=Candidate.in_flight, default=None), "least-loaded"

    def _with_key(
        self, near: list[Candidate], pool: ModelPool, request: RouteRequest, now: float, bound: float
    ) -> tuple[Candidate | None, str]:
        if not near:
            return None, ""
        if near[0].in_flight() <= bound:
            return near[0], "session" if request.by_session else "prefix"
        least = min(near, key=Candidate.in_flight)
        if least.in_flight() <= bound:
            return least, "overflow"
        others = self._first_candidates(pool.rotation(), request, now, NO_SHORTCUT)
        if others and others[0].is_ready is least.is_ready:
            least = min(least, *others, key=Candidate.in_flight)
        return least, "crowded"

    def _route_to(self, candidate: Candidate, reason: str, request: RouteRequest, now: float) -> Route:
        candidate.breaker.request_sent(now)
        if not candidate.is_ready:
            reason += ";only-at-risk"
        if request.avoid is not None:
            reason += ";other-pool" if candidate.status.pool != request.avoid else ";same-pool"
        return Route(candidate.status, reason)
