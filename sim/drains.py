"""Simulates a mass interruption: EC2 gives half of a busy fleet two minutes' notice.

The real drain planner, router and admission on model engines: what becomes of the streams, what the nodes that stay
have to bear, what new requests are answered.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from node_agent.contract.states import NodeState
from node_agent.core.drain.planner import MARGIN_S, DrainPlanner, HandOff, Peer, ServedStream, reclaimed_pools
from node_agent.core.routing.admission import Rejection
from node_agent.core.routing.candidates import MAX_WAITING
from node_agent.core.routing.router import Route, RouteRequest
from sim.engine import TIME_PER_TOKEN_S, Engine, Work
from sim.entry import Entry
from sim.figures import spread
from sim.fleet import Fleet
from sim.host import Host
from sim.observations import MOST_TABLES

NOTICE_S = 120.0
REPLAN_S = 0.5
LOOKS_AT_ENGINE_S = 0.5
WARM_UP_S = 240.0
"""Until as many requests end as start: an answer takes two minutes on average."""

CONTEXT = (200, 6_000)
ANSWER = (100, 8_000)
"""Tokens of prompts and answers, from and to."""

MOST_ENTRIES = 60
"""Nodes at which clients connect: each has a router, which in a large fleet knows a thousand engines."""

WAIT_FOR_NODE_S = 15.0
"""How long a stream that has begun waits for a node, as the agent's does."""


@dataclass
class _Node:
    """A node of the fleet. deadline: when EC2 ends it, in virtual seconds; None before its notice."""

    host: Host
    engine: Engine
    drain: DrainPlanner
    deadline: float | None = None


@dataclass
class _Door:
    """A node at which clients connect."""

    node: _Node
    entry: Entry


@dataclass
class _Outcome:
    """All counts. lost: streams whose client got no answer and no error that says how to continue."""

    asked: int = 0
    finished: int = 0
    handed_off: int = 0
    crowded: int = 0
    at_deadline: int = 0
    lost: int = 0
    refused: int = 0
    pauses: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    backlogs: list[float] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)


class _MassInterruption:
    """Runs the scenario. nodes: of the fleet; share: of it that is interrupted; rate: requests a second per node."""

    def __init__(self, nodes: int, seed: int, share: float, rate: float) -> None:
        self.fleet = Fleet(seed)
        self.outcome = _Outcome()
        self._random = random.Random(f"mass interruption {seed}")  # noqa: S311 # a simulation
        scheduler = self.fleet.scheduler
        hosts = self.fleet.gather(nodes, share=nodes > MOST_TABLES)
        self.nodes = {
            host.instance_id: _Node(host, Engine(scheduler), DrainPlanner(host.instance_id)) for host in hosts
        }
        self.doors = [
            _Door(self.nodes[host.instance_id], Entry(scheduler, host, f"entry {seed} {host.instance_id}"))
            for host in hosts[:MOST_ENTRIES]
        ]
        self._share = share
        self._rate = rate * nodes / len(self.doors)
        self._routed: dict[int, tuple[_Door, str]] = {}
        scheduler.every(LOOKS_AT_ENGINE_S, self._measure)
        for door in self.doors:
            scheduler.after(self._random.expovariate(self._rate), self._request, door)

    def run(self) -> _Outcome:
        """Simulate from a busy fleet to a minute after the last interrupted node is gone."""
        scheduler = self.fleet.scheduler
        self.fleet.pass_time(WARM_UP_S)
        nodes = list(self.nodes.values())
        going = self._random.sample(nodes, round(self._share * len(nodes)))
        for node in going:
            scheduler.after(2.0 * self._random.random(), self._notice, node)
        self.fleet.pass_time(NOTICE_S + 60.0)
        return self.outcome

    # requests

    def _request(self, door: _Door) -> None:
        """Send a client's request to a node that a load balancer still uses."""
        self.fleet.scheduler.after(self._random.expovariate(self._rate), self._request, door)
        if not door.node.host.is_running:
            return
        self.outcome.asked += 1
        context, answer = self._random.randint(*CONTEXT), self._random.randint(*ANSWER)
        work = Work(self._random.getrandbits(64), context, answer, self._begun, self._ended)
        self._submit(work, door, self.fleet.scheduler.now)

    def _submit(self, work: Work, door: _Door, asked_at: float) -> None:
        def answered(route: Route | Rejection) -> None:
            if isinstance(route, Rejection):
                self.outcome.refused += 1
                self.outcome.retry_after.append(route.retry_after_s)
            elif self._is_full(door, route):
                self._submit(work, door, asked_at)
            else:
                self._send(work, door, route, asked_at, set())

        door.entry.submit(RouteRequest("llama", work.prefix), answered)

    def _is_full(self, door: _Door, route: Route) -> bool:
        """Return whether the engine node refuses: the entry's load of it was old. The entry gets the present load."""
        name = route.node.instance_id
        engine = self.nodes[name].engine
        door.entry.router.load_reported(name, engine.load)
        return len(engine.waiting) >= MAX_WAITING

    def _send(self, work: Work, door: _Door, route: Route, since: float, tried: set[str]) -> None:
        target = self.nodes[route.node.instance_id]
        if not target.host.is_running or not target.host.membership.status.state.takes_requests:
            tried.add(route.node.instance_id)  # stale: its door says so, and the entry asks on
            self._continue(work, door, since, tried, None)
            return
        self._routed[id(work)] = door, route.node.instance_id
        door.entry.router.request_started(route.node.instance_id)
        target.engine.submit(work)
        work.came_at = since

    def _release(self, work: Work) -> _Door:
        """Remove a request from its engine's load at its entry, and return the entry."""
        door, name = self._routed.pop(id(work))
        door.entry.router.request_ended(name)
        return door

    def _continue(self, work: Work, door: _Door, since: float, tried: set[str], to: str | None) -> None:
        """Route a stream again that was handed off, or met a draining node."""
        if not door.node.host.is_running:  # its client resumed elsewhere
            door = self._random.choice([other for other in self.doors if other.node.host.is_running])
        route = door.entry.route(
            RouteRequest("llama", work.prefix, tried=tuple(tried), handoff_target=to, is_continuation=True)
        )
        now = self.fleet.scheduler.now
        if isinstance(route, Route):
            self._send(work, door, route, since, tried)
        elif now - since < WAIT_FOR_NODE_S:
            self.fleet.scheduler.after(0.1, self._continue, work, door, since, set(), None)
        else:
            self.outcome.lost += 1

    def _begun(self, work: Work) -> None:
        waited_s = self.fleet.scheduler.now - work.came_at
        (self.outcome.pauses if work.generation > 1 else self.outcome.first_tokens).append(waited_s)

    def _ended(self, work: Work) -> None:
        self._release(work)
        self.outcome.finished += 1

    # nodes

    def _measure(self) -> None:
        for node in self.nodes.values():
            if node.host.is_running:
                node.host.set_load(node.engine.load)
                if node.deadline is None:
                    self.outcome.backlogs.append(node.engine.queue_s)
        for door in self.doors:
            door.entry.router.own_load.set(door.node.engine.load)

    def _notice(self, node: _Node) -> None:
        node.deadline = self.fleet.scheduler.now + NOTICE_S
        node.host.announce(NodeState.DRAINING)
        self._replan(node)

    def _replan(self, node: _Node) -> None:
        now, deadline = self.fleet.scheduler.now, node.deadline
        if deadline is None or not node.host.is_running:
            return
        engine, machine = node.engine, node.host.membership
        works = dict(enumerate((*engine.running.values(), *engine.waiting)))
        if now >= deadline - MARGIN_S or not works:
            self._close(node, list(works.values()))
            return
        streams = [_served(number, work, engine) for number, work in works.items()]
        view = machine.view
        peers = [Peer(status, machine.members[status.instance_id].load) for status in view.serving]
        drainers = 1 + sum(status.state is NodeState.DRAINING for status in view.alive)
        going = reclaimed_pools((s for s in view.alive if s.state is NodeState.AT_RISK), machine.status.pool)
        planned = node.drain.plan(streams, peers, going, drainers, now, deadline)
        for hand_off in planned.due:
            self._hand_off(node, works[hand_off.key], hand_off)
        self.fleet.scheduler.after(REPLAN_S, self._replan, node)

    def _hand_off(self, node: _Node, work: Work, hand_off: HandOff) -> None:
        self.outcome.handed_off += 1
        self.outcome.crowded += hand_off.is_overflow
        node.engine.hand_off(work)
        self._continue(work, self._release(work), self.fleet.scheduler.now, {node.host.instance_id}, hand_off.target)

    def _close(self, node: _Node, works: list[Work]) -> None:
        """Hand off what is still here at the last moment, and leave."""
        for work in works:
            self.outcome.at_deadline += 1
            self._hand_off(node, work, HandOff(0, None, self.fleet.scheduler.now))
        node.host.leave()


def _served(key: int, work: Work, engine: Engine) -> ServedStream:
    """Describe a request for the node's planner; of one that waits, the remaining length is unknown."""
    made = engine.generated_tokens(work)
    remaining = work.remaining - made if work.began_at is not None else None
    return ServedStream(key, remaining, TIME_PER_TOKEN_S, work.context + made)


def mass_interruption(nodes: int, seed: int, share: float = 0.5, *, rate: float) -> dict[str, Any]:
    """Run the scenario; return its counts."""
    story = _MassInterruption(nodes, seed, share, rate)
    outcome = story.run()
    running = sum(len(node.engine.running) + len(node.engine.waiting) for node in story.nodes.values())
    waiting = sum(len(door.entry.admission) for door in story.doors if door.node.host.is_running)
    return {
        "nodes": nodes,
        "went": sum(not node.host.is_running for node in story.nodes.values()),
        "asked": outcome.asked,
        "finished": outcome.finished,
        "still_there": running + waiting,
        "handed_off": outcome.handed_off,
        "crowded": outcome.crowded,
        "at_deadline": outcome.at_deadline,
        "lost": outcome.lost,
        "refused_429": outcome.refused,
        "unaccounted": outcome.asked - outcome.finished - running - waiting - outcome.lost - outcome.refused,
        "pause_s": spread(outcome.pauses),
        "first_token_s": spread(outcome.first_tokens),
        "prefill_backlog_s": spread(outcome.backlogs),
        "retry_after_s": spread(outcome.retry_after),
    }
