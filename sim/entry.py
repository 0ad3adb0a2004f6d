"""How a simulated node routes a client's request: the real router and admission, or a baseline policy."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum

from node_agent.core.node.status import NodeStatus
from node_agent.core.routing.admission import Admission, Rejection, Ticket
from node_agent.core.routing.router import NoRoute, Route, Router, RouteRequest
from sim.host import Host
from sim.scheduler import Scheduler

_LOOK_EVERY_S = 0.05


class Policy(Enum):
    """How an engine is chosen. PREFIX is Synkti's own; the others are baselines."""

    PREFIX = "prefix, bounded load"
    ROUND_ROBIN = "round robin"
    LEAST_LOAD = "least load"
    POWER_OF_TWO = "power of two"


class Entry:
    """One host's client API. reasons: how many requests were routed, by reason."""

    def __init__(self, scheduler: Scheduler, host: Host, seed: str, policy: Policy = Policy.PREFIX) -> None:
        self.host = host
        self.router = Router(host.instance_id)
        self.admission = Admission()
        self.policy = policy
        self.reasons: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self._scheduler = scheduler
        self._random = random.Random(seed)  # noqa: S311 # a simulation
        self._view_version = -1
        self._own_status: NodeStatus | None = None
        self._waiting: dict[int, tuple[Ticket, RouteRequest, Callable[[Route | Rejection], None]]] = {}
        self._turn = 0
        self._is_looking = False

    def route(self, request: RouteRequest) -> Route | NoRoute:
        """Choose a node for a request now, if one can take it."""
        machine = self.host.membership
        view, own = machine.view, machine.status
        if view.version != self._view_version or own is not self._own_status:
            self._view_version, self._own_status = view.version, own
            self.router.update(view.serving, machine.members, own)
        if self.policy is not Policy.PREFIX:
            return self._baseline_route(view.serving)
        route = self.router.route(request, self._scheduler.now)
        reason = route.reason if isinstance(route, Route) else route.value
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        return route

    def _baseline_route(self, serving: tuple[NodeStatus, ...]) -> Route | NoRoute:
        machine = self.host.membership
        nodes = [*serving, machine.status] if machine.status.state.takes_requests else list(serving)
        if not nodes:
            return NoRoute.NO_NODE

        def in_flight(node: NodeStatus) -> int:
            own = node.instance_id == self.host.instance_id
            load = self.router.own_load.load if own else machine.members[node.instance_id].load
            return load.in_flight

        if self.policy is Policy.ROUND_ROBIN:
            self._turn += 1
            chosen = nodes[self._turn % len(nodes)]
        elif self.policy is Policy.POWER_OF_TWO:
            chosen = min(self._random.choice(nodes), self._random.choice(nodes), key=in_flight)
        else:
            chosen = min(nodes, key=lambda node: (in_flight(node), self._random.random()))
        return Route(chosen, self.policy.value)

    def submit(self, request: RouteRequest, answer: Callable[[Route | Rejection], None]) -> None:
        """Route a request now, or when a node can take it; `answer` receives the route, or the refusal."""
        now = self._scheduler.now
        route = self.route(request) if self.admission.may_bypass_queue() or request.is_continuation else NoRoute.FULL
        if isinstance(route, Route):
            self.admission.admitted(now)
            answer(route)
            return
        waits = self.admission.enqueue(now, self._random.random())
        if isinstance(waits, Rejection):
            self._refuse(waits, answer)
            return
        self._waiting[waits.number] = (waits, request, answer)
        self._schedule_check()

    def _schedule_check(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._scheduler.after(_LOOK_EVERY_S, self._check_waiting)

    def _check_waiting(self) -> None:
        self._is_looking = False
        now = self._scheduler.now
        for ticket in self.admission.pop_expired(now):
            _, _, answer = self._waiting.pop(ticket.number)
            self._refuse(self.admission.timeout_rejection(now, self._random.random()), answer)
        while (first := self.admission.next) is not None:
            _, request, answer = self._waiting[first.number]
            route = self.route(request)
            if not isinstance(route, Route):
                break
            del self._waiting[first.number]
            self.admission.admitted(now, first)
            answer(route)
        if len(self.admission):
            self._schedule_check()

    def _refuse(self, refused: Rejection, answer: Callable[[Route | Rejection], None]) -> None:
        self.refused[refused.reason] = self.refused.get(refused.reason, 0) + 1
        answer(refused)
