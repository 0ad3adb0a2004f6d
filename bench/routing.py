"""`python -m bench.routing`: ways to choose an engine over real vLLM engines, beside the simulation's (`sim/policies`).

Three engines share this machine's CPU. Each turn comes in at one of three nodes of the simulation, which live on the
wall clock: the real router (or what is usual in its place), the real membership, loads as gossip has them. The engine
that a node chooses is asked directly. Every play has a `cache_salt` of its own, and so empty prefix caches.

Prints a table and writes routing.json. Exit codes: `bench/command`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from bench.command import Stage, run, table
from bench.doors import ROOT, ask
from bench.figures import turn as in_turn
from bench.talks import Conversation, RunResult, Turn, chats, rows, unrelated
from local.emulated_instance import free_network
from local.engines import MODEL, VLLM, prepare_engine
from local.errors import LocalRunError
from local.process_cleanup import start, tail
from node_agent.adapters.http import HttpClient
from node_agent.contract.names import ENGINE_PORT
from node_agent.core.common.address import Address
from node_agent.core.node.status import Load
from node_agent.core.openai.chunks import COMPLETE_REASONS
from node_agent.core.openai.generation_request import ApiRoute
from node_agent.core.openai.sse import DONE, SseParser
from node_agent.core.routing.admission import Rejection
from node_agent.core.routing.affinity import conversation_key
from node_agent.core.routing.router import Route, RouteRequest
from node_agent.runtime.engine.load_monitor import INTERVAL_S
from sim.entry import Entry, Policy
from sim.fleet import Fleet

ENGINES = 3
CLIENTS = 12
"""At once; fewer than one engine's --max-num-seqs, so that what waits is never a request."""

ANSWER_TOKENS = 32
_TICK_S = 0.01
_LOOK_EVERY_S = 0.2
_SILENCE_S = 60.0
_BESIDE = Policy.ROUND_ROBIN.value
_HEADS = ("clients", "policy", "cached, %", "first p50, s", f"x {_BESIDE}", "p99, s", f"x {_BESIDE}", "imbalance")
_LOOKED_UP, _HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"


class Nodes:
    """Who chooses: a node for each engine, whose load is the turns that are under way there."""

    def __init__(self, policy: Policy, engines: Sequence[Address], salt: str, seed: int) -> None:
        fleet = Fleet(seed)
        hosts = fleet.gather(len(engines))
        self.engines = dict(zip((host.instance_id for host in hosts), engines, strict=True))
        self.asked: Counter[str] = Counter()
        self.first_token_s: list[float] = []
        self._agenda = fleet.scheduler
        self._entries = [Entry(fleet.scheduler, host, f"{policy} {seed} {n}", policy) for n, host in enumerate(hosts)]
        self._open: Counter[str] = Counter()
        self._salt = salt
        self.client = HttpClient()
        fleet.scheduler.every(INTERVAL_S, self._measure)

    async def keep_time(self) -> None:
        """Let the nodes live, until cancelled."""
        began = time.monotonic()
        while True:
            self._agenda.run_until(time.monotonic() - began)
            await asyncio.sleep(_TICK_S)

    def _load(self, name: str) -> Load:
        return Load(self._open[name], 0, 0.0, 0.0, 0.0)

    def _measure(self) -> None:
        for entry in self._entries:
            load = self._load(entry.host.instance_id)
            entry.host.set_load(load)
            entry.router.own_load.set(load)

    async def hold(self, talk: Conversation) -> None:
        """One client's conversation, to its end. Raises LocalRunError, ExchangeLost."""
        messages = [{"role": "system", "content": talk.system}] if talk.system else []
        for turn in talk.turns:
            await asyncio.sleep(turn.thinks_s)
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": await self._say(turn, messages)})

    async def _say(self, turn: Turn, messages: list[dict[str, str]]) -> str:
        began, entry = time.perf_counter(), self._entries[turn.entry]
        chosen: asyncio.Future[Route | Rejection] = asyncio.get_running_loop().create_future()
        entry.submit(RouteRequest(entry.host.membership.status.model, conversation_key(messages)), chosen.set_result)
        route = await chosen
        if isinstance(route, Rejection):
            raise LocalRunError(f"{entry.policy.value}: a turn was refused ({route.reason})")
        name = route.node.instance_id
        entry.router.request_started(name)
        self._open[name] += 1
        self.asked[name] += 1
        first_at, answer = await self._answered(self.engines[name], messages)
        self._open[name] -= 1
        entry.router.request_ended(name)
        entry.router.load_reported(name, self._load(name))
        self.first_token_s.append(first_at - began)
        return answer

    async def _answered(self, engine: Address, messages: list[dict[str, str]]) -> tuple[float, str]:
        """When the first token came, on the performance counter, and the whole answer."""
        body = {
            "model": MODEL, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True,
            "stream": True, "return_token_ids": True, "cache_salt": self._salt,
        }  # fmt: skip
        first_at, answer, reason, parser = 0.0, "", None, SseParser()
        headers, raw = {"content-type": "application/json"}, orjson.dumps(body)
        exchange = await self.client.open(
            engine, "POST", ApiRoute.CHAT.value, headers=headers, body=raw, read_timeout_s=_SILENCE_S
        )
        try:
            while data := await exchange.read():
                events = [orjson.loads(event) for _, event in parser.feed(data) if event != DONE]
                for choice in [choice for event in events for choice in event.get("choices", ())]:
                    if not first_at and choice.get("token_ids"):
                        first_at = time.perf_counter()
                    answer += choice["delta"].get("content") or ""
                    reason = choice.get("finish_reason") or reason
        finally:
            exchange.close()
        if reason not in COMPLETE_REASONS or not first_at:
            raise LocalRunError(f"{engine} said {exchange.status}, and ended an answer with {reason}")
        return first_at, answer


def prefix_counts(engines: Sequence[Address]) -> tuple[int, int]:
    """Prompt tokens that all engines looked up in their prefix caches so far, and found. Raises LocalRunError."""
    sums: Counter[str] = Counter()
    for engine in engines:
        _, text = ask(engine.host, engine.port, "GET", "/metrics")
        samples = [each for family in text_string_to_metric_families(text.decode()) for each in family.samples]
        counts = {each.name: each.value for each in samples if each.name in (_LOOKED_UP, _HITS)}
        if len(counts) < 2:
            raise LocalRunError(f"{engine}: no {_LOOKED_UP} and {_HITS}; is prefix caching on?")
        sums.update({name: round(value) for name, value in counts.items()})
    return sums[_LOOKED_UP], sums[_HITS]


async def play(
    policy: Policy, clients: str, talks: Sequence[Conversation], engines: Sequence[Address], seed: int
) -> RunResult:
    """All talks, by CLIENTS clients at once, each of which takes the next one that nobody has."""
    nodes = Nodes(policy, engines, f"{clients} {seed} {policy.value}", seed)
    looked_up, hits = prefix_counts(engines)
    left = iter(talks)

    async def client() -> None:
        for talk in left:
            await nodes.hold(talk)

    living = asyncio.create_task(nodes.keep_time())
    tasks = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    playing: list[asyncio.Future[Any]] = [living, asyncio.gather(*tasks)]
    try:
        done, _ = await asyncio.wait(playing, return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.result()
    finally:
        for task in (living, *tasks):
            task.cancel()
        await asyncio.gather(living, *tasks, return_exceptions=True)
        await nodes.client.close()
    looked_up_now, hits_now = prefix_counts(engines)
    asked = tuple(nodes.asked[name] for name in nodes.engines)
    first = tuple(round(seconds, 5) for seconds in nodes.first_token_s)
    busy, _, _ = os.getloadavg()
    return RunResult(clients, seed, policy.value, first, asked, looked_up_now - looked_up, hits_now - hits, busy)


def start_engines(stage: Stage, logs: Path) -> list[Address]:
    """Healthy ones, each on an address of its own. Raises LocalRunError."""
    engine = prepare_engine(VLLM, stage.screen.log)
    shutil.rmtree(logs, ignore_errors=True)
    network, give_up_at = free_network(), time.monotonic() + engine.ready_timeout_s
    environ = {**engine.environ, "TMPDIR": str(stage.scratch)}
    addresses = {
        logs / f"{number}.log": Address(f"{network}.{number}", ENGINE_PORT) for number in range(1, ENGINES + 1)
    }
    for log, each in addresses.items():
        start(engine.command(each.host, each.port), stage.folder / each.host, environ, log)
    for log, each in addresses.items():
        while ask(each.host, each.port, "GET", "/health")[0] != 200:
            if time.monotonic() > give_up_at:
                raise LocalRunError(f"{each} did not serve in time; {log} ends:\n{tail(log)}")
            time.sleep(_LOOK_EVERY_S)
    stage.screen.log(f"{ENGINES} engines serve: {engine.title}")
    return list(addresses.values())


def measure(stage: Stage, options: argparse.Namespace) -> None:
    """Rounds with a seed each, in which the policies take turns; what engines do for the first time is not counted."""
    engines = start_engines(stage, options.out / "routing-logs")
    asyncio.run(play(Policy.ROUND_ROBIN, "warm-up", unrelated(-1, ENGINES)[: 2 * CLIENTS], engines, -1))
    plays = []
    for round_ in range(options.rounds):
        seed = options.seed + round_
        for clients, trace in (("chat", chats), ("unrelated", unrelated)):
            for name in in_turn([policy.value for policy in Policy], round_):
                played = asyncio.run(play(Policy(name), clients, trace(seed, ENGINES), engines, seed))
                plays.append(played)
                told = f"{played.hit_rate:.0%} cached, first token {played.first_p50_s:.2f} s"
                stage.screen.log(f"round {round_ + 1}, {clients}, {name}: {told}")
    busy = [each.load_average for each in plays]
    title = f"{options.rounds} rounds: median (least-most); the machine's load average: {min(busy):.0f}-{max(busy):.0f}"
    stage.console.print(table(title, _HEADS, rows(plays, _BESIDE)))
    report = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "clients_at_once": CLIENTS,
        "seed": options.seed,
        "plays": [{**asdict(each), "hit_rate": each.hit_rate, "imbalance": each.imbalance} for each in plays],
    }
    path = options.out / "routing.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    stage.screen.log(f"written: {path}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description="Ways to choose an engine, on vLLM.")
    parser.add_argument("--rounds", type=int, default=4, help="each with clients of its own; over a minute")
    parser.add_argument("--seed", type=int, default=1, help="of the first round's clients")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where routing.json and the logs go")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    options.out = options.out.resolve()
    return run("routing", options.out, lambda stage: measure(stage, options))


if __name__ == "__main__":
    sys.exit(main())
