"""Runs clients and faults at the same time and records every result."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import synkti_client
from local.aws import free_port
from local.certificate import Output
from local.chaos.client import RequestResult, send_request
from local.chaos.fleet import ChaosFleet
from local.chaos.kinds import FailureBudget, FaultKind, shuffled, targets
from local.chaos.workload import EVENT_ROUTES, WorkloadRequest, expected, random_request
from local.demo.screen import Screen
from local.deploy import ROOT
from local.emulated_instance import EmulatedInstance
from local.engines import MODEL, SIM, VLLM, LocalEngine
from local.errors import LocalRunError
from local.process_cleanup import start, tail
from synkti_client import httpx

CLUSTER = "chaos"
_FAULT_INTERVAL_S = (0.1, 0.9)
_LOG_EVERY = 25
_REFRESH_INTERVAL_S = 2.0
_GATEWAY_TIMEOUT_S = 60.0
_SALTED_SHARE = 0.7
"""Of the requests to engines that store blocks: their contexts must be fetched; other contexts may be local."""

_PROMPT_REPEATS = 80
"""Makes prompts long, so that each has several blocks from the beginning."""


@dataclass(frozen=True)
class Scale:
    """What differs between the engines.

    min_stable: nodes without a fault; tokens: least and most of an answer; sampler_states: how many of the workload's
    sampler states occur.
    """

    nodes: int
    min_stable: int
    clients: int
    tokens: tuple[int, int]
    texts: int
    choices: int
    outputs_are_known: bool
    sampler_states: int = 0


SCALES = {
    SIM: Scale(9, 4, 12, (60, 400), texts=8, choices=3, outputs_are_known=True, sampler_states=1),
    VLLM: Scale(3, 1, 2, (600, 600), texts=3, choices=1, outputs_are_known=False, sampler_states=4),
}


def scale_of(engine: LocalEngine) -> Scale:
    """Return the engine's scale. With blocks there are more and longer streams, so that faulty nodes have contexts."""
    scale = SCALES[engine.name]
    return replace(scale, clients=2 * scale.clients, tokens=(1_000, 1_000)) if engine.keeps_blocks else scale


@dataclass
class ChaosRun:
    """State of one run. fault_counts: by kind; references: expected outputs, by the request's key."""

    fleet: ChaosFleet
    engine: LocalEngine
    scale: Scale
    screen: Screen
    gateway_url: str
    transport: synkti_client.AsyncContinuousTransport
    fault_counts: Counter[str] = field(default_factory=Counter)
    references: dict[tuple[object, ...], Output] = field(default_factory=dict)
    results: list[RequestResult] = field(default_factory=list)
    fault_by_node: dict[str, str] = field(default_factory=dict)

    def random_request(self, random: Random) -> WorkloadRequest:
        """Return a random request of this run's scale; where engines store blocks, one with a long prompt."""
        scale = self.scale
        request = random_request(
            random, scale.tokens, texts=scale.texts, choices=scale.choices, states=scale.sampler_states
        )
        if not self.engine.keeps_blocks:
            return request
        salt = f"{random.getrandbits(64):016x}" if random.random() < _SALTED_SHARE else ""
        return replace(request, text=request.text * _PROMPT_REPEATS, salt=salt)

    async def send_request(self, request: WorkloadRequest) -> RequestResult:
        """Send a request as it has it, through the gateway or the transport; errors are in the result."""
        key = self.fleet.protection.key
        if request.via == "gateway":
            async with httpx.AsyncHTTPTransport() as stock:
                return await send_request(request, MODEL, f"{self.gateway_url}/v1", stock, key)
        return await send_request(request, MODEL, "http://synkti/v1", self.transport, key)

    @property
    def failed_results(self) -> int:
        """The number of answers so far with an error or an inconsistency."""
        return sum(bool(result.error or result.inconsistency) for result in self.results)


async def run_chaos(
    fleet: ChaosFleet,
    engine: LocalEngine,
    screen: Screen,
    folder: Path,
    out: Path,
    kinds: Sequence[FaultKind],
    interruptions: int,
    seed: int,
) -> ChaosRun:
    """Run clients and faults to the end. Raises LocalRunError if the fleet does not become ready."""
    random, scale = Random(seed), scale_of(engine)  # noqa: S311 # it is to be repeatable
    await fleet.wait_for("all nodes serve", lambda: len(fleet.stable) == scale.nodes, engine.ready_timeout_s)
    screen.log(f"{scale.nodes} nodes serve")
    urls = [instance.url for instance in fleet.instances]
    environ = {**fleet.environ, **fleet.protection.client_environ}
    gateway, gateway_url = await _start_gateway(urls, environ, folder, out / "logs" / "gateway.log")
    transport = synkti_client.async_transport(urls)
    chaos = ChaosRun(fleet, engine, scale, screen, gateway_url, transport)
    if not scale.outputs_are_known:
        await _record_references(chaos)
    stopping = asyncio.Event()
    each = [Random(random.random()) for _ in range(scale.clients)]  # noqa: S311 # it is to be repeatable
    clients = [asyncio.create_task(_run_client(chaos, one, stopping)) for one in each]
    refresh_task = asyncio.create_task(_refresh_nodes(transport))
    try:
        await _inject_faults(chaos, random, kinds, interruptions)
        stopping.set()
        screen.log("no more faults; the last answers finish")
        await asyncio.gather(*clients)
    finally:
        for task in (*clients, refresh_task):
            task.cancel()
        gateway.terminate()
    await transport.aclose()
    return chaos


async def _refresh_nodes(transport: synkti_client.AsyncContinuousTransport) -> None:
    """Refresh the node list as an application does; here the whole fleet is replaced within seconds."""
    while True:
        await transport.refresh()
        await asyncio.sleep(_REFRESH_INTERVAL_S)


async def _start_gateway(
    urls: list[str], aws: dict[str, str], folder: Path, log: Path
) -> tuple[subprocess.Popen[bytes], str]:
    """Start a gateway as a user does. It gets one node and the cluster, and has to discover the others."""
    port = free_port()
    command = [sys.executable, "-m", "cli", "gateway", "--port", str(port), "--node", urls[0], "--cluster", CLUSTER]
    environ = {**os.environ, **aws, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "client")))}
    process = start(command, folder / "gateway", environ, log)
    url, give_up_at = f"http://127.0.0.1:{port}", time.monotonic() + _GATEWAY_TIMEOUT_S
    async with httpx.AsyncClient(timeout=2.0) as http:
        while True:
            try:
                if (await http.get(f"{url}/v1/models")).status_code == 200:
                    return process, url
            except httpx.TransportError:
                if time.monotonic() > give_up_at:
                    raise LocalRunError(f"the gateway did not start; its log ends:\n{tail(log)}") from None
                await asyncio.sleep(0.05)


async def _record_references(chaos: ChaosRun) -> None:
    """Record a real engine's outputs before any fault: there is no other way to know them."""
    chaos.screen.log("the reference outputs are recorded without faults")
    rng = Random(0)  # noqa: S311 # any will do
    while len(chaos.references) < chaos.scale.texts * (2 * (1 + chaos.scale.sampler_states) + len(EVENT_ROUTES)):
        request = chaos.random_request(rng)
        if request.stop or request.echo or request.key in chaos.references:
            continue
        ids = not request.uses_named_events
        plain = WorkloadRequest(
            request.route, request.text, request.max_tokens, "client", returns_token_ids=ids, state=request.state
        )
        result = await chaos.send_request(plain)
        if result.error or result.continuations:
            raise LocalRunError(f"a reference was interrupted: {result.error or result.continuations}")
        chaos.references[plain.key] = result.outputs[0]


async def _run_client(chaos: ChaosRun, random: Random, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        request = chaos.random_request(random)
        if request.key not in chaos.references:
            if not chaos.scale.outputs_are_known:
                continue  # there is no reference
            chaos.references[request.key] = expected(request)
        result = await chaos.send_request(request)
        chaos.results.append(result)
        if result.error or result.inconsistency:
            chaos.screen.log(f"a client saw: {result.error or result.inconsistency} ({request})", style="bold red")


async def _inject_faults(chaos: ChaosRun, random: Random, kinds: Sequence[FaultKind], interruptions: int) -> None:
    fleet, active, budget = chaos.fleet, set[asyncio.Task[None]](), FailureBudget(asyncio.get_running_loop().time)
    for kind in shuffled(random, kinds):
        if sum(chaos.fault_counts.values()) >= interruptions:
            break
        await asyncio.sleep(random.uniform(*_FAULT_INTERVAL_S))
        leaves = chaos.scale.min_stable if kind.min_stable is None else kind.min_stable
        least = leaves + kind.targets - 1
        if least >= chaos.scale.nodes:
            continue
        await fleet.wait_for("nodes are calm again", lambda: len(fleet.stable) > least, chaos.engine.ready_timeout_s)  # noqa: B023 # awaited here
        await budget.reserve(kind)
        chosen = await targets(fleet, kind, random)
        if len(chosen) < kind.targets:
            continue
        ids = {instance.instance_id for instance in chosen}
        fleet.under_fault |= ids
        chaos.fault_by_node |= dict.fromkeys(ids, kind.name)
        chaos.fault_counts[kind.name] += 1
        task = asyncio.create_task(_inject(chaos, kind, chosen))
        active.add(task)
        count = sum(chaos.fault_counts.values())
        if count % _LOG_EVERY == 0:
            chaos.screen.log(f"{count} faults, {len(chaos.results)} answers, {chaos.failed_results} bad")
        for done in [task for task in active if task.done()]:
            active.remove(done)
            done.result()  # a fault that could not be injected fails the run
    await asyncio.gather(*active)


async def _inject(chaos: ChaosRun, kind: FaultKind, chosen: Sequence[EmulatedInstance]) -> None:
    try:
        await kind.inject(chaos.fleet, chosen)
    finally:
        chaos.fleet.under_fault -= {instance.instance_id for instance in chosen if instance.running}
