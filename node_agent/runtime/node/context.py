"""This node's context: identity, state, peers and routes, shared by its APIs and tasks.

It is the one mutable value that the tasks share. Only the agent's effects change `state`; the APIs read it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from node_agent.contract.states import NodeState
from node_agent.core.continuation.timeouts import MIN_INTER_TOKEN_S
from node_agent.core.failure.loss import LossReason
from node_agent.core.failure.verdict import BreakerEffect, Fault, NextStep, Verdict
from node_agent.core.membership import LocalLoadSet, LocalStateSet, Member, Membership, View
from node_agent.core.node.peer_clocks import RIGHT, OwnClock, PeerClocks
from node_agent.core.node.status import Load, NodeStatus, Pool
from node_agent.core.routing.router import NoRoute, Route, Router, RouteRequest
from node_agent.core.snapshot.continuity import Continuity
from node_agent.core.snapshot.timeline import Timeline
from node_agent.core.streams.stream_error import MOVED
from node_agent.ports import Identity
from node_agent.runtime.common.loop_turns import LoopTurns
from node_agent.runtime.common.metrics import Metrics
from node_agent.runtime.node.crash_suspects import CrashSuspects
from node_agent.runtime.node.gossip import Gossip

_NOT_THERE = frozenset({LossReason.REFUSED, LossReason.UNREACHABLE, LossReason.RESET})
"""Losses that concern the node, not only one request."""


@dataclass
class NodeContext:
    """The state of this node that its tasks share.

    Args:
        model: the one that it serves while its state takes requests.
        wall_clock: unix seconds; `gossip.monotonic` is the clock for durations.
        min_silence_s: the least inter-token timeout of the streams here.
        continuation_methods: those that the self-test found the engine to support.
        served_names: all model names that the engine answers to.
        own_clock: the verdict on this node's clock.
        clocks: what was measured of peers' clocks, None where they are not compared.
        incarnation: the one that this agent began with, which its record in the table has.
        timeline, continuity: what happened to the fleet and to the streams here, for people who watch.
    """

    identity: Identity
    model: str
    wall_clock: Callable[[], float]
    gossip: Gossip
    metrics: Metrics
    min_silence_s: float = MIN_INTER_TOKEN_S
    continuation_methods: tuple[str, ...] = ()
    served_names: frozenset[str] = frozenset()
    own_clock: OwnClock = RIGHT
    clocks: PeerClocks | None = None
    incarnation: int = field(init=False)
    router: Router = field(init=False)
    crash_suspects: CrashSuspects = field(init=False)
    timeline: Timeline = field(init=False, default_factory=Timeline)
    continuity: Continuity = field(init=False)
    turns: LoopTurns = field(init=False, default_factory=LoopTurns)
    """Of what streams do when they lose an engine or their entry: hundreds do so at once."""

    _view: View | None = field(init=False, default=None)
    _own: NodeStatus | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.incarnation = self.members.status.incarnation
        self.router = Router(self.instance_id)
        self.crash_suspects = CrashSuspects(self.gossip, self.metrics)
        self.continuity = Continuity(self.wall_clock())

    @property
    def instance_id(self) -> str:
        """This node's EC2 instance id, its name among peers."""
        return self.identity.instance_id

    @property
    def pool(self) -> Pool:
        """This node's spot pool: its availability zone and instance type."""
        return Pool(self.identity.zone, self.identity.instance_type)

    @property
    def members(self) -> Membership:
        """The membership machine, with this node's view of its peers."""
        return self.gossip.machine

    @property
    def state(self) -> NodeState:
        """This node's state, as its peers receive it."""
        return self.members.status.state

    def set_state(self, state: NodeState, deadline: float | None = None) -> None:
        """Set the state and broadcast it at once. deadline: unix seconds at which the node ends, None for none."""
        ends_at = 0 if deadline is None else max(0, math.ceil(deadline))
        self.gossip.handle(LocalStateSet(self.gossip.monotonic(), state, self.continuation_methods, ends_at))

    def set_load(self, load: Load) -> None:
        """Set the load of this node's engine."""
        self.router.own_load.set(load)
        self.gossip.handle(LocalLoadSet(self.gossip.monotonic(), load))

    def status(self) -> NodeStatus:
        """Return this node's status, as its peers receive it."""
        return self.members.status

    def load_of(self, instance_id: str) -> Load:
        """Return a peer's newest load; this node's own where the id is of no known peer."""
        member = self.members.members.get(instance_id)
        return member.load if member is not None else self.router.own_load.load

    # peers

    @property
    def present(self) -> list[NodeStatus]:
        """All peers that are not dead or gone; suspects are included until their timeout."""
        view = self.members.view
        return [*view.alive, *view.suspects]

    @property
    def suspects(self) -> set[str]:
        """The instance ids of peers that may be dead."""
        return {status.instance_id for status in self.members.view.suspects}

    def clock_ahead_s(self, status: NodeStatus) -> float | None:
        """Return how far a peer's clock is ahead of this node's, in seconds; None where that was not measured."""
        ahead_s = self.clocks.ahead_s(status.peer_address) if self.clocks is not None else None
        return None if ahead_s is None else round(ahead_s, 3)

    def member(self, instance_id: str) -> Member | None:
        """Return a peer's entry in the table of members, also of one that is dead or gone; None for an unknown one."""
        return self.members.members.get(instance_id)

    def on_connection_lost(self, instance_id: str, reason: LossReason) -> None:
        """Report that a connection to a peer broke or could not be made."""
        if reason in _NOT_THERE:
            self.gossip.on_request_failed(instance_id, reason)

    def on_request_succeeded(self, instance_id: str) -> None:
        """Report that a node's engine began to answer."""
        self.router.succeeded(instance_id)

    def on_request_failed(self, instance_id: str, verdict: Verdict) -> None:
        """Report that a request to a node's engine failed; the verdict decides whether its breaker counts it."""
        self.metrics.failures.labels(verdict.fault.value, verdict.code).inc()
        if verdict.breaker is BreakerEffect.YES:
            self.router.failed(instance_id, self.gossip.monotonic())
        elif verdict.next is NextStep.FINAL and verdict.fault is Fault.CLIENT:
            self.router.succeeded(instance_id)  # it answered, and well
        else:
            self.router.undecided(instance_id)

    def on_others_failed(self, instance_ids: Iterable[str]) -> None:
        """Count a failure of engines that could not answer a request which another engine has answered."""
        for instance_id in instance_ids:
            self.router.failed(instance_id, self.gossip.monotonic())

    # streams

    def record_continued(self, lost: str, code: str, instance_id: str, pause_s: float) -> None:
        """Record that a stream continued. lost: the node that was lost; code: why; instance_id: where it continues."""
        self.continuity.count_continued(code, pause_s)
        self.timeline.add_continued(self.wall_clock(), lost, code, instance_id, pause_s)

    def record_ended(self, code: str) -> None:
        """Record that a stream ended with an error here. code: of the error."""
        self.continuity.count_ended(code)
        self.timeline.add_ended(self.wall_clock(), self.instance_id, code, is_resumable=code in MOVED)

    # routes

    def route(self, request: RouteRequest) -> Route | NoRoute:
        """Choose the engine for a request."""
        self._update_router()
        route = self.router.route(request, self.gossip.monotonic())
        if isinstance(route, Route):
            self.metrics.count_route(route.reason)
        return route

    def serves(self, model: str | None) -> bool:
        """Return whether a node serves this model now; None: any model."""
        self._update_router()
        return self.router.serves(model)

    def base_model(self, name: str | None) -> str | None:
        """Return the base model of a name: its own name, another that its engine was given, or an adapter's.

        name: None where the client names none: it means the model of the node that it calls, as with an engine.
        An unknown name is returned as it is.
        """
        self._update_router()
        serves = self.router.serves
        if name is not None and (serves(name) or name not in self.served_names):
            return name
        if serves(self.model):
            return self.model
        served = self.router.models()
        return next(iter(served)) if name is None and len(served) == 1 else name

    def models(self) -> frozenset[str]:
        """Return the models that are served now."""
        self._update_router()
        return self.router.models()

    def _update_router(self) -> None:
        members = self.members
        view, own = members.view, members.status
        if view is not self._view or own is not self._own:
            self._view, self._own = view, own
            self.router.update(_serving(view, own), members.members, own)


def _serving(view: View, own: NodeStatus) -> Iterable[NodeStatus]:
    """Return the peers that may be chosen; a suspect only where no other node serves its model."""
    models = {status.model for status in itertools.chain(view.serving, (own,) if own.state.takes_requests else ())}
    doubtful = [s for s in view.suspects if s.state.takes_requests and s.model not in models]
    return [*view.serving, *doubtful]
