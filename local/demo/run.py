"""Runs the demo whole: the embedded AWS, the deployed stacks, the instances, three acts, the certificate."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from local import certificate as certificates
from local.aws import EmbeddedAws
from local.demo.context import DemoContext
from local.demo.screen import Screen
from local.deploy import ROOT, deploy, find_group
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, VLLM, LocalEngine, prepare_engine
from local.errors import LocalRunError, UserActionRequired
from local.interruptible_run import run_with_cleanup
from local.process_cleanup import tail
from local.tiny_model import ensure_story_model
from node_agent.contract.names import DEFAULT_CLUSTER

_NODES = 3
_WIDTH = 120
_STOPPED = 130


@dataclass(frozen=True)
class Options:
    """The command line's options. stay: run on after the report, until Ctrl-C; out: folder of logs and certificate."""

    engine: str
    stay: bool
    out: Path

    @property
    def logs(self) -> Path:
        """The folder of all processes' logs."""
        return self.out / "logs"


def run(began: float) -> int:
    """Run the demo; return its exit code. began: monotonic seconds."""
    options = _options()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # nothing here may reach a real account, or depend on one
    console = Console()
    screen = Screen(console if console.is_terminal else Console(width=_WIDTH), began)
    try:
        is_passed = _run_to_end(options, screen)
    except LocalRunError as error:
        screen.log(str(error), style="bold red")
        return 2 if isinstance(error, UserActionRequired) else 1
    except (BotoCoreError, ClientError) as error:
        log = options.logs / "aws.log"
        screen.log(f"the embedded AWS failed: {error}; its log, {log}, ends:\n{tail(log)}", style="bold red")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.log("stopped")
        return _STOPPED
    return 0 if is_passed else 1


def _run_to_end(options: Options, screen: Screen) -> bool:
    """Run in an event loop that does not wait for its threads at the end, which may wait for an AWS that is gone."""
    loop = asyncio.new_event_loop()
    stopping = partial(screen.log, "stopping")
    running = run_with_cleanup(options.out, partial(_run, options, screen), screen.log, stopping)
    return loop.run_until_complete(running)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="make run", description="The whole system on one machine.")
    parser.add_argument("--engine", choices=(VLLM, SIM), default=VLLM)
    parser.add_argument("--stay", action="store_true", help="stay up after the report, until Ctrl-C")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where logs and the certificate go")
    arguments = parser.parse_args()
    return Options(arguments.engine, arguments.stay, arguments.out.resolve())


async def _run(options: Options, screen: Screen, folder: Path, scratch: Path) -> bool:
    shutil.rmtree(options.logs, ignore_errors=True)
    network = free_network()
    engine = await _prepare_engine(options, screen)
    aws = EmbeddedAws(folder, options.logs)
    async with screen.waiting(lambda: "the embedded AWS starts"):
        await asyncio.to_thread(aws.wait)
    screen.log(f"an AWS on this machine, {aws.endpoint}; now the real cdk bootstrap and cdk deploy")
    environ = {**aws.environ(), **engine.environ, "TMPDIR": str(scratch)}
    kind = InstanceTemplate(
        DEFAULT_CLUSTER, MODEL, engine.model_dir, engine.command, environ, folder / "nodes", options.logs
    )
    boot = partial(EmulatedInstance, kind)
    async with screen.waiting(lambda: "cdk bootstrap, cdk deploy"):
        deploying = asyncio.create_task(asyncio.to_thread(deploy, aws, folder))
        group = await asyncio.to_thread(find_group, aws, DEFAULT_CLUSTER, deploying.done)
        if group is None:
            group = (await deploying).auto_scaling_group  # raises why there is none
        emulator = Ec2Emulator(aws, group, boot, network, screen.log)
        emulating = asyncio.create_task(emulator.run())
        await asyncio.to_thread(importlib.import_module, "local.demo.acts")
        deployed = await deploying
    screen.log("deployed: the stacks state, model, fleet and events")
    context = DemoContext(
        aws, deployed, emulator, screen, MODEL, reference=engine.reference, fleet_size=_NODES,
        ready_timeout_s=engine.ready_timeout_s, folder=folder, logs=options.logs,
    )  # fmt: skip
    return await _run_beside(emulating, context, options)


async def _prepare_engine(options: Options, screen: Screen) -> LocalEngine:
    doing = ["the engine is prepared"]

    def log(text: str) -> None:
        doing[0] = text
        screen.log(text)

    async with screen.waiting(lambda: doing[0]):
        engine = await asyncio.to_thread(prepare_engine, options.engine, log, ensure=ensure_story_model)
    screen.log(f"the engine of each node: {engine.title}")
    return engine


async def _run_beside(emulating: asyncio.Task[None], context: DemoContext, options: Options) -> bool:
    """Run the story while the emulator keeps the group at its size; return whether it passed."""
    story = asyncio.create_task(_run_story(context, options))
    try:
        done, _ = await asyncio.wait({emulating, story}, return_when=asyncio.FIRST_COMPLETED)
        return await story if story in done else await _raise_loop_error(emulating)
    except asyncio.CancelledError:
        if context.passed is None:
            raise
        return context.passed  # the report is written; Ctrl-C ends --stay
    finally:
        for task in (emulating, story):
            task.cancel()
        await asyncio.gather(emulating, story, return_exceptions=True)
        await context.http.aclose()


async def _raise_loop_error(emulating: asyncio.Task[None]) -> bool:
    await emulating  # raises what stopped it
    raise LocalRunError("the EC2 emulator ended by itself")


async def _run_story(context: DemoContext, options: Options) -> bool:
    from local.demo import acts  # noqa: PLC0415 # imported while the stacks were deployed: the SDK takes a second
    from local.demo.report import invite, write_report  # noqa: PLC0415
    from local.demo.runner import run_act  # noqa: PLC0415

    screen = context.screen
    await context.wait_until_ready()
    screen.node_table(await context.nodes())
    interruptions = {}
    screen.heading("1  EC2 wants an instance back, and gives notice")
    screen.log(f"(EC2 gives about 120 s; here {acts.NOTICE_LEAD_S:.0f} s, so that the stream must be handed off)")
    interruptions["notice"] = await run_act(context, acts.through_a_notice)
    screen.heading("2  The node whose engine generates dies without a word")
    await context.wait_until_ready()
    interruptions["sigkill"] = await run_act(context, acts.through_a_kill)
    screen.heading("3  The node that the client is connected to dies")
    acts.start_gateway(context)
    await context.wait_until_ready()
    interruptions["entry-sigkill"] = await run_act(context, acts.through_the_loss_of_its_own_node)
    screen.heading("The fleet is whole again")
    await context.wait_until_ready()
    screen.node_table(await context.nodes())
    document = certificates.build_certificate(options.engine, None, interruptions, context.outcomes, screen.elapsed_s)
    context.passed = write_report(context, document, options.out / "certificate.json")
    if options.stay:
        await invite(context)
        await asyncio.Event().wait()
    return context.passed
