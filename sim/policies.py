"""Compares routing policies: the same clients, the same engines, loads as gossip has them.

Chat: conversations of several turns, each of which begins with all messages before; every turn may reach another node,
as behind a load balancer. Unrelated: prompts that share nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from node_agent.core.routing.admission import Rejection
from node_agent.core.routing.router import Route, RouteRequest
from sim.engine import Engine, Work
from sim.entry import Entry, Policy
from sim.figures import spread
from sim.fleet import Fleet

NODES = 10
APPLICATIONS = 6
SYSTEM_TOKENS = (300, 2_500)
QUESTION_TOKENS = (20, 400)
ANSWER_TOKENS = (50, 600)
TURNS = 6
THINKS_S = 12.0
"""Between an answer and the next question, on average."""

ALONE_TOKENS = (500, 4_000)
WARM_UP_S = 120.0
MEASURED_S = 300.0


@dataclass
class Talk:
    """One conversation: so far, and how many turns are left."""

    key: int
    application: int
    system_tokens: int
    context: int
    turns: int


class Bench:
    """Clients of one kind under one policy. rate: new conversations, or prompts, a second in the whole fleet."""

    def __init__(self, policy: Policy, chat: bool, seed: int, rate: float) -> None:
        self.fleet = Fleet(seed)
        hosts = self.fleet.gather(NODES)
        scheduler = self.fleet.scheduler
        self.engines = {host.instance_id: Engine(scheduler) for host in hosts}
        self.entries = [Entry(scheduler, host, f"{policy} {seed} {n}", policy) for n, host in enumerate(hosts)]
        self.first_tokens: list[float] = []
        self.imbalance: list[float] = []
        self.reasons: dict[str, int] = {}
        self._chat = chat
        self._rate = rate
        self._random = random.Random(f"clients {seed}")  # noqa: S311 # the same for every policy
        self._applications = [self._random.randint(*SYSTEM_TOKENS) for _ in range(APPLICATIONS)]
        scheduler.every(0.5, self._measure)
        scheduler.after(0.0, self._arrive)

    def run(self) -> dict[str, Any]:
        """Warm up, then measure MEASURED_S virtual seconds; return the results by name, times in seconds."""
        self.fleet.pass_time(WARM_UP_S)
        engines = self.engines.values()
        read, cached = (sum(getattr(engine, name) for engine in engines) for name in ("tokens_read", "tokens_cached"))
        self.first_tokens.clear()
        self.imbalance.clear()
        self.fleet.pass_time(MEASURED_S)
        read = sum(engine.tokens_read for engine in engines) - read
        cached = sum(engine.tokens_cached for engine in engines) - cached
        return {
            "hit_rate": round(cached / read, 4),
            "first_token_s": spread(self.first_tokens),
            "imbalance": round(sum(self.imbalance) / len(self.imbalance), 3),
            "refused_429": sum(sum(entry.refused.values()) for entry in self.entries),
        }

    def _measure(self) -> None:
        in_flight = [engine.load.in_flight for engine in self.engines.values()]
        if sum(in_flight):
            self.imbalance.append(max(in_flight) * NODES / sum(in_flight))
        for entry in self.entries:
            load = self.engines[entry.host.instance_id].load
            entry.host.set_load(load)
            entry.router.own_load.set(load)

    def _arrive(self) -> None:
        self.fleet.scheduler.after(self._random.expovariate(self._rate), self._arrive)
        if not self._chat:
            context, answer = self._random.randint(*ALONE_TOKENS), self._random.randint(*ANSWER_TOKENS)
            self._ask(Work(self._random.getrandbits(64), context, answer, self._begun, lambda _: None), None)
            return
        application = self._random.randrange(APPLICATIONS)
        system = self._applications[application]
        turns = 1 + min(30, int(self._random.expovariate(1 / TURNS)))
        self._turn(Talk(self._random.getrandbits(64), application, system, system, turns))

    def _turn(self, talk: Talk) -> None:
        talk.context += self._random.randint(*QUESTION_TOKENS)
        talk.turns -= 1
        answer = self._random.randint(*ANSWER_TOKENS)

        def ended(_: Work) -> None:
            talk.context += answer
            if talk.turns:
                self.fleet.scheduler.after(self._random.expovariate(1 / THINKS_S), self._turn, talk)

        work = Work(
            talk.key, talk.context, answer, self._begun, ended, shared=talk.application + 1,
            shared_tokens=talk.system_tokens,
        )  # fmt: skip
        self._ask(work, talk)

    def _ask(self, work: Work, talk: Talk | None) -> None:
        entry = self._random.choice(self.entries)
        asked_at = self.fleet.scheduler.now

        def answered(route: Route | Rejection) -> None:
            if isinstance(route, Route):
                name = route.node.instance_id
                entry.router.request_started(name)
                ended = work.ended

                def closed(done: Work) -> None:
                    entry.router.request_ended(name)
                    entry.router.load_reported(name, self.engines[name].load)
                    ended(done)

                work.ended = closed
                self.engines[name].submit(work)
                work.came_at = asked_at

        entry.submit(RouteRequest("llama", work.prefix if talk is not None or not self._chat else None), answered)

    def _begun(self, work: Work) -> None:
        self.first_tokens.append(self.fleet.scheduler.now - work.came_at)


def compare(seed: int, chat_rate: float = 1.0, alone_rate: float = 10.0) -> dict[str, dict[str, dict[str, Any]]]:
    """Run every policy; results by the kind of clients, then by policy."""
    return {
        kind: {policy.value: Bench(policy, chat, seed, rate).run() for policy in Policy}
        for kind, chat, rate in (("chat", True, chat_rate), ("unrelated", False, alone_rate))
    }
