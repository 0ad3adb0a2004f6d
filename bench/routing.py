"""Compares routing policies (`sim/policies`) over real vLLM engines: `python -m bench.routing`.

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

from bench.command import RunFolder, run, table
from bench.conversations import Conversation, Question, RunResult, rows, shared_prompt_trace, unrelated_trace
from bench.figures import rotation as in_turn
from bench.proxies import ROOT, send_request
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
"""Concurrent clients; fewer than one engine's --max-num-seqs, so that no request waits for a slot."""

ANSWER_TOKENS = 32
_TICK_S = 0.01
_LOOK_EVERY_S = 0.2
_SILENCE_S = 60.0
_BESIDE = Policy.ROUND_ROBIN.value
_HEADS = ("clients", "policy", "cached, %", "first p50, s", f"x {_BESIDE}", "p99, s", f"x {_BESIDE}", "imbalance")
_LOOKED_UP, _HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"


class RoutingNodes:
    """Routes requests: a node for each engine, whose load is the number of its active requests."""

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
        fleet.scheduler.every(INTERVAL_S, self._update_loads)

    async def run_clock(self) -> None:
        """Advance the nodes' time until cancelled."""
        began = time.monotonic()
        while True:
            self._agenda.run_until(time.monotonic() - began)
            await asyncio.sleep(_TICK_S)

    def _load(self, name: str) -> Load:
        return Load(self._open[name], 0, 0.0, 0.0, 0.0)

    def _update_loads(self) -> None:
        for entry in self._entries:
            load = self._load(entry.host.instance_id)
            entry.host.set_load(load)
            entry.router.own_load.set(load)

    async def run_conversation(self, conversation: Conversation) -> None:
        """Run one client's conversation to its end. Raises LocalRunError, ExchangeLost."""
        messages = [{"role": "system", "content": conversation.system}] if conversation.system else []
        for question in conversation.questions:
            await asyncio.sleep(question.thinks_s)
            messages.append({"role": "user", "content": question.question})
            messages.append({"role": "assistant", "content": await self._run_question(question, messages)})

    async def _run_question(self, question: Question, messages: list[dict[str, str]]) -> str:
        began, entry = time.perf_counter(), self._entries[question.entry]
        chosen: asyncio.Future[Route | Rejection] = asyncio.get_running_loop().create_future()
        entry.submit(RouteRequest(entry.host.membership.status.model, conversation_key(messages)), chosen.set_result)
        route = await chosen
        if isinstance(route, Rejection):
            raise LocalRunError(f"{entry.policy.value}: a turn was refused ({route.reason})")
        name = route.node.instance_id
        entry.router.request_started(name)
        self._open[name] += 1
        self.asked[name] += 1
        first_at, answer = await self._send_question(self.engines[name], messages)
        self._open[name] -= 1
        entry.router.request_ended(name)
        entry.router.load_reported(name, self._load(name))
        self.first_token_s.append(first_at - began)
        return answer

    async def _send_question(self, engine: Address, messages: list[dict[str, str]]) -> tuple[float, str]:
        """Return the first token's time, on the performance counter, and the whole answer."""
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
    """Return the prompt tokens that all engines looked up in their prefix caches, and found. Raises LocalRunError."""
    sums: Counter[str] = Counter()
    for engine in engines:
        _, text = send_request(engine.host, engine.port, "GET", "/metrics")
        samples = [each for family in text_string_to_metric_families(text.decode()) for each in family.samples]
        counts = {each.name: each.value for each in samples if each.name in (_LOOKED_UP, _HITS)}
        if len(counts) < 2:
            raise LocalRunError(f"{engine}: no {_LOOKED_UP} and {_HITS}; is prefix caching on?")
        sums.update({name: round(value) for name, value in counts.items()})
    return sums[_LOOKED_UP], sums[_HITS]


async def run_trace(
    policy: Policy, clients: str, conversations: Sequence[Conversation], engines: Sequence[Address], seed: int
) -> RunResult:
    """All talks, by CLIENTS clients at once, each of which takes the next one that nobody has."""
    nodes = RoutingNodes(policy, engines, f"{clients} {seed} {policy.value}", seed)
    looked_up, hits = prefix_counts(engines)
    left = iter(conversations)

    async def client() -> None:
        for conversation in left:
            await nodes.run_conversation(conversation)

    living = asyncio.create_task(nodes.run_clock())
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


def start_engines(run_folder: RunFolder, logs: Path) -> list[Address]:
    """Start engines, each on an address of its own; return when all are healthy. Raises LocalRunError."""
    engine = prepare_engine(VLLM, run_folder.screen.log)
    shutil.rmtree(logs, ignore_errors=True)
    network, give_up_at = free_network(), time.monotonic() + engine.ready_timeout_s
    environ = {**engine.environ, "TMPDIR": str(run_folder.scratch)}
    addresses = {
        logs / f"{number}.log": Address(f"{network}.{number}", ENGINE_PORT) for number in range(1, ENGINES + 1)
    }
    for log, each in addresses.items():
        start(engine.command(each.host, each.port), run_folder.folder / each.host, environ, log)
    for log, each in addresses.items():
        while send_request(each.host, each.port, "GET", "/health")[0] != 200:
            if time.monotonic() > give_up_at:
                raise LocalRunError(f"{each} did not serve in time; {log} ends:\n{tail(log)}")
            time.sleep(_LOOK_EVERY_S)
    run_folder.screen.log(f"{ENGINES} engines serve: {engine.title}")
    return list(addresses.values())


def measure_policies(run_folder: RunFolder, options: argparse.Namespace) -> None:
    """Run rounds with a seed each, the policies in turns, after a warm-up that does not count."""
    engines = start_engines(run_folder, options.out / "routing-logs")
    asyncio.run(run_trace(Policy.ROUND_ROBIN, "warm-up", unrelated_trace(-1, ENGINES)[: 2 * CLIENTS], engines, -1))
    results = []
    for round_ in range(options.rounds):
        seed = options.seed + round_
        for clients, trace in (("chat", shared_prompt_trace), ("unrelated", unrelated_trace)):
            for name in in_turn([policy.value for policy in Policy], round_):
                result = asyncio.run(run_trace(Policy(name), clients, trace(seed, ENGINES), engines, seed))
                results.append(result)
                figures = f"{result.hit_rate:.0%} cached, first token {result.first_token_p50_s:.2f} s"
                run_folder.screen.log(f"round {round_ + 1}, {clients}, {name}: {figures}")
    busy = [each.load_average for each in results]
    title = f"{options.rounds} rounds: median (least-most); the machine's load average: {min(busy):.0f}-{max(busy):.0f}"
    run_folder.console.print(table(title, _HEADS, rows(results, _BESIDE)))
    report = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "clients_at_once": CLIENTS,
        "seed": options.seed,
        "plays": [{**asdict(each), "hit_rate": each.hit_rate, "imbalance": each.imbalance} for each in results],
    }
    path = options.out / "routing.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    run_folder.screen.log(f"written: {path}")


def main() -> int:
    """Compare the policies with the options of the command line; return the exit code of `bench/command`."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description="Ways to choose an engine, on vLLM.")
    parser.add_argument("--rounds", type=int, default=4, help="each with clients of its own; over a minute")
    parser.add_argument("--seed", type=int, default=1, help="of the first round's clients")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where routing.json and the logs go")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    options.out = options.out.resolve()
    return run("routing", options.out, lambda run_folder: measure_policies(run_folder, options))


if __name__ == "__main__":
    sys.exit(main())
