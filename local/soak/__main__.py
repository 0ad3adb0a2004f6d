"""Runs `make soak`: streams through three nodes, an interruption every 20 s; measures memory, descriptors, loop lag.

Writes samples and a chart to `--out`, prints a summary, and exits with 0 only if nothing was lost, memory stayed flat,
no descriptor leaked, and the agents' loops were on time.
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
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console

from local.aws import EmbeddedAws
from local.aws_fault_proxy import AwsFaultProxy
from local.chaos import faults, network
from local.chaos.fleet import ChaosFleet
from local.demo.screen import Screen
from local.deploy import ROOT
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, fake_engine_command, prepare_engine
from local.errors import LocalRunError
from local.interruptible_run import run_with_cleanup
from local.soak.load_process import LOW_PRIORITY, LoadProcess
from local.soak.report import SoakReport, build_report, memory_chart
from local.soak.samples import Sample, take_sample

NODES = 3
FAULT_INTERVAL_S = 20.0
_SAMPLE_INTERVAL_S = 5.0
_SECONDS_PER_TOKEN = 1.0
"""With even load: a node's engine generates one token a second for each of its streams."""

CLUSTER = "soak"
_FAULTS = {
    "sigkill": faults.kill,
    "engine-sigkill": faults.engine_kill,
    "notice": faults.notice,
    "engine-sigterm": faults.engine_term,
    "sigterm": faults.sigterm,
}
_ENGINE_FAULTS = frozenset({"engine-sigkill", "engine-sigterm"})


@dataclass
class SoakRun:
    """State of one soak run.

    watched_node: only its engine is interrupted, never the node, so that its memory is measured to the end.
    """

    fleet: ChaosFleet
    load: LoadProcess
    screen: Screen
    started_at: float
    watched_node: str
    fault_counts: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    first_seen_s: dict[str, float] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the load."""
        return time.monotonic() - self.started_at


def main() -> int:
    """Run the soak; return 0 if everything held, 1 if something did not or failed, 130 if stopped."""
    options = _options()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    network.enter_namespace()
    console = Console()
    screen = Screen(console if console.is_terminal else Console(width=120))
    try:
        run = run_with_cleanup(options.out, partial(_run, options, screen), screen.log)
        return 0 if asyncio.run(run) else 1
    except LocalRunError as error:
        screen.log(str(error), style="bold red")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.log("stopped")
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=1_000, help="at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "soak")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    return arguments


async def _run(options: argparse.Namespace, screen: Screen, folder: Path, scratch: Path) -> bool:
    logs = options.out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    engine = prepare_engine(SIM, screen.log)
    screen.heading(f"Soak: {options.streams} streams for {options.minutes:g} minutes, seed {options.seed}")
    aws = EmbeddedAws(folder, logs)
    await asyncio.to_thread(aws.wait)
    aws_proxy = AwsFaultProxy(aws.endpoint)
    await aws_proxy.start()
    environ = {**aws.environ(), "TMPDIR": str(scratch), "SYNKTI_ENGINE_RESTARTS": "1000", "SYNKTI_TERM_GRACE_S": "8"}
    per_request = _SECONDS_PER_TOKEN * NODES / options.streams
    command = partial(_engine_command, f"{per_request:.6f}")
    kind = InstanceTemplate(CLUSTER, MODEL, engine.model_dir, command, environ, folder / "nodes", logs)
    fleet = ChaosFleet(aws, aws_proxy, kind, free_network(), NODES)
    fleet_task = asyncio.create_task(fleet.run())
    soak_task = asyncio.create_task(_run_soak(fleet, screen, options, folder))
    try:
        await asyncio.wait({fleet_task, soak_task}, return_when=asyncio.FIRST_COMPLETED)
        if not soak_task.done():
            await fleet_task
            raise LocalRunError("the fleet's loop ended by itself")
        return _write_report(soak_task.result(), options, screen)
    finally:
        for task in (fleet_task, soak_task):
            task.cancel()
        await asyncio.gather(fleet_task, soak_task, return_exceptions=True)
        await aws_proxy.close()


def _engine_command(seconds_per_request: str, host: str, port: int) -> list[str]:
    return [*LOW_PRIORITY, *fake_engine_command("--seconds-per-request", seconds_per_request)(host, port)]


async def _run_soak(fleet: ChaosFleet, screen: Screen, options: argparse.Namespace, folder: Path) -> SoakRun:
    await fleet.wait_for("all nodes serve", lambda: len(fleet.stable) == NODES, 90.0)
    load = await LoadProcess.start(
        [instance.url for instance in fleet.instances],
        options.streams,
        min(60.0, 20.0 * options.minutes),
        options.seed,
        folder / "load",
        options.out / "logs" / "load.log",
    )
    soak = SoakRun(fleet, load, screen, time.monotonic(), fleet.instances[0].instance_id)
    sampling = asyncio.create_task(_sample(soak))
    try:
        await _inject_faults(soak, 60.0 * options.minutes)
        screen.log("no more interruptions; the last answers finish")
        await load.stop()
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        await load.kill()
    return soak


async def _sample(soak: SoakRun) -> None:
    async with httpx.AsyncClient(timeout=5.0) as http:
        while True:
            for instance in list(soak.fleet.instances):
                first_seen_s = soak.first_seen_s.setdefault(instance.instance_id, soak.elapsed_s)
                sample = await take_sample(http, instance, soak.elapsed_s, soak.elapsed_s - first_seen_s)
                if sample is not None:
                    soak.samples.append(sample)
            await asyncio.sleep(_SAMPLE_INTERVAL_S)


async def _inject_faults(soak: SoakRun, for_s: float) -> None:
    """Inject all kinds in turn, FAULT_INTERVAL_S apart, each when the node before is replaced."""
    number = 0
    while (due_s := FAULT_INTERVAL_S * (number + 1)) < for_s:
        await asyncio.sleep(max(0.0, due_s - soak.elapsed_s))
        soak.load.raise_if_ended()
        await soak.fleet.wait_for("all nodes serve", lambda: len(soak.fleet.stable) == NODES, 90.0)
        name = list(_FAULTS)[number % len(_FAULTS)]
        number += 1
        instance = _target(soak, name, number)
        soak.fleet.under_fault.add(instance.instance_id)
        soak.fault_counts[name] += 1
        totals = soak.load.totals
        soak.screen.log(
            f"{name}; {totals.active} streams under way, {totals.completed} whole, {len(totals.failures)} wrong"
        )
        await _FAULTS[name](soak.fleet, [instance])
        soak.fleet.under_fault.discard(instance.instance_id)


def _target(soak: SoakRun, name: str, number: int) -> EmulatedInstance:
    nodes: Sequence[EmulatedInstance] = soak.fleet.instances
    if name not in _ENGINE_FAULTS:
        nodes = [instance for instance in nodes if instance.instance_id != soak.watched_node]
    return nodes[number % len(nodes)]


def _write_report(soak: SoakRun, options: argparse.Namespace, screen: Screen) -> bool:
    result: SoakReport = build_report(soak.samples, soak.watched_node, soak.load.totals, dict(soak.fault_counts))
    document = {**asdict(result), "streams": options.streams, "minutes": options.minutes, "seed": options.seed}
    (options.out / "soak.json").write_text(json.dumps(document, indent=2) + "\n")
    (options.out / "samples.json").write_text(json.dumps([asdict(sample) for sample in soak.samples]))
    (options.out / "soak.svg").write_text(memory_chart(soak.samples, soak.watched_node))
    screen.print_text(json.dumps(document, indent=2))
    for reason in soak.load.totals.failures[:20]:
        screen.log(reason, style="red")
    for fault in result.faults:
        screen.log(fault, style="bold red")
    screen.log("nothing lost, nothing leaked" if not result.faults else "NOT HELD", style="bold")
    return not result.faults


if __name__ == "__main__":
    sys.exit(main())
