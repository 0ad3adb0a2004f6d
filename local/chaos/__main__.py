"""Runs `make chaos`: injects faults until the requested number is reached, while clients read streams.

The seed decides the order of faults and requests; which request meets which fault also depends on this machine's speed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from local.aws import EmbeddedAws
from local.aws_fault_proxy import AwsFaultProxy
from local.chaos import contexts, network
from local.chaos.faults import TERM_GRACE_S
from local.chaos.faulty import FAKE_ENGINE_ARGS, FEW_BLOCKS_ARGS
from local.chaos.fleet import ChaosFleet
from local.chaos.kinds import FAULT_KINDS
from local.chaos.report import write_report
from local.chaos.runner import CLUSTER, run_chaos, scale_of
from local.demo.screen import Screen
from local.deploy import ROOT
from local.emulated_instance import InstanceTemplate, free_network
from local.engines import MODEL, SIM, VLLM, fake_engine_command, prepare_engine
from local.errors import LocalRunError, UserActionRequired
from local.faulty_agent import COMMAND as FAULTY_AGENT
from local.interruptible_run import run_with_cleanup
from local.protection import UNPROTECTED, protect


def main() -> int:
    """Run chaos; return 0 if every stream continued exactly, 1 if not, 2 if the user has to act, 130 if stopped."""
    options = _options()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    can_cut_network = network.enter_namespace()
    console = Console()
    screen = Screen(console if console.is_terminal else Console(width=120))
    try:
        run = run_with_cleanup(options.out, partial(_run, options, screen, can_cut_network), screen.log)
        return 0 if asyncio.run(run) else 1
    except LocalRunError as error:
        screen.log(str(error), style="bold red")
        return 2 if isinstance(error, UserActionRequired) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.log("stopped")
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="Faults at random in a fleet under load.")
    parser.add_argument("--engine", choices=(VLLM, SIM), default=SIM)
    parser.add_argument("--interruptions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--kinds", help="only these, with commas between them", default=",".join(k.name for k in FAULT_KINDS)
    )
    parser.add_argument(
        "--kv-gib", type=float, default=0, metavar="GIB",
        help="each vLLM stores so much of its KV blocks on the disk, and contexts move between nodes and through S3",
    )  # fmt: skip
    parser.add_argument("--unprotected", action="store_true", help="clients need no key, and nodes speak no TLS")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "chaos", help="where logs and the certificate go")
    arguments = parser.parse_args()
    unknown = set(arguments.kinds.split(",")) - {kind.name for kind in FAULT_KINDS}
    if unknown:
        parser.error(f"unknown kinds {sorted(unknown)}; there are {[kind.name for kind in FAULT_KINDS]}")
    if not 0 <= arguments.kv_gib < 1024:
        parser.error("--kv-gib is a number of GiB from 0, for none, to 1024")
    arguments.out = arguments.out.resolve()
    return arguments


async def _run(options: argparse.Namespace, screen: Screen, can_cut_network: bool, folder: Path, scratch: Path) -> bool:
    logs = options.out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    kinds = [k for k in FAULT_KINDS if k.name in options.kinds.split(",") and options.engine in k.engines]
    if not kinds:
        raise UserActionRequired(f"none of these faults exists for {options.engine}: {options.kinds}")
    if not can_cut_network:
        kinds = [kind for kind in kinds if not kind.needs_namespace]
        left_out = ", ".join(kind.name for kind in FAULT_KINDS if kind.needs_namespace)
        screen.log(f"this user may not create network namespaces, so this run has no {left_out}", style="yellow")
    began = time.monotonic()
    engine = await asyncio.to_thread(prepare_engine, options.engine, screen.log, options.kv_gib, FEW_BLOCKS_ARGS)
    scale = scale_of(engine)
    screen.heading(f"Chaos: {options.interruptions} interruptions, seed {options.seed}, {engine.title}")
    aws = EmbeddedAws(folder, logs)
    await asyncio.to_thread(aws.wait)
    aws_proxy = AwsFaultProxy(aws.endpoint)
    await aws_proxy.start()
    environ = {**aws.environ(), **engine.environ, "TMPDIR": str(scratch), "AWS_ENDPOINT_URL": aws_proxy.url}
    environ |= {"SYNKTI_TERM_GRACE_S": str(TERM_GRACE_S), "SYNKTI_ENGINE_RESTARTS": "50"}
    environ |= {"SYNKTI_LOG_LEVEL": "DEBUG", "SYNKTI_ALLOWED_FIELDS": "cache_salt"}  # the workload salts contexts
    command = fake_engine_command(*FAKE_ENGINE_ARGS) if engine.name == SIM else engine.command
    kind = InstanceTemplate(
        CLUSTER, MODEL, engine.model_dir, command, environ, folder / "nodes", logs, FAULTY_AGENT,
        UNPROTECTED if options.unprotected else protect(folder),
    )  # fmt: skip
    fleet = ChaosFleet(aws, aws_proxy, kind, free_network(), scale.nodes)
    fleet_task = asyncio.create_task(fleet.run())
    run_task = asyncio.create_task(
        run_chaos(fleet, engine, screen, folder, options.out, kinds, options.interruptions, options.seed)
    )
    try:
        await asyncio.wait({fleet_task, run_task}, return_when=asyncio.FIRST_COMPLETED)
        if run_task.done():
            if engine.keeps_blocks:
                screen.log(f"contexts of continued streams: {contexts.summary(logs)}")
            return write_report(run_task.result(), options.seed, options.out, time.monotonic() - began)
        await fleet_task
        raise LocalRunError("the fleet's loop ended by itself")
    finally:
        for task in (fleet_task, run_task):
            task.cancel()
        await asyncio.gather(fleet_task, run_task, return_exceptions=True)
        await aws_proxy.close()


if __name__ == "__main__":
    sys.exit(main())
