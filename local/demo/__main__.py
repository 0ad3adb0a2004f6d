"""Runs `make run`: the whole system on one machine, with two of its nodes interrupted while clients read.

    python -m local.demo.__main__ [--engine vllm|sim] [--stay] [--out FOLDER]

Exit code 0: every stream continued exactly. 1: one did not, or something failed; the last line printed says what.
2: the user has to fix something first. 130: stopped before the report was written.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from local import certificate as certificates
from local.aws import EmbeddedAws
from local.demo.client import DemoRequest
from local.demo.context import DemoContext
from local.demo.runner import NOTICE_LEAD_S, interrupt_stream
from local.demo.screen import Screen
from local.deploy import ROOT, deploy
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, VLLM, prepare_engine
from local.errors import LocalRunError, UserActionRequired
from local.interruptible_run import run_with_cleanup
from local.process_cleanup import tail

_MAX_TOKENS = 3000
_NODES = 3
_WIDTH = 120


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


def main() -> int:
    """Run the demo; return its exit code (see the module)."""
    options = _options()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # nothing here may reach a real account, or depend on one
    console = Console()
    screen = Screen(console if console.is_terminal else Console(width=_WIDTH))
    try:
        is_passed = asyncio.run(run_with_cleanup(options.out, partial(_run, options, screen), screen.log))
    except LocalRunError as error:
        screen.log(str(error), style="bold red")
        return 2 if isinstance(error, UserActionRequired) else 1
    except (BotoCoreError, ClientError) as error:
        log = options.logs / "aws.log"
        screen.log(f"the embedded AWS failed: {error}; its log, {log}, ends:\n{tail(log)}", style="bold red")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.log("stopped")
        return 130
    return 0 if is_passed else 1


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
    screen.heading("Synkti on one machine")
    engine = await asyncio.to_thread(prepare_engine, options.engine, screen.log)
    screen.log(f"the engine: {engine.title}")
    screen.log("the embedded AWS starts")
    aws = EmbeddedAws(folder, options.logs)
    await asyncio.to_thread(aws.wait)
    screen.log(f"cdk bootstrap, cdk deploy against {aws.endpoint}")
    deployed = await asyncio.to_thread(deploy, aws, folder)
    screen.log("deployed: the stacks state, model, fleet and events")
    environ = {**aws.environ(), **engine.environ, "TMPDIR": str(scratch)}
    kind = InstanceTemplate(
        deployed.cluster, MODEL, engine.model_dir, engine.command, environ, folder / "nodes", options.logs
    )
    emulator = Ec2Emulator(aws, deployed.auto_scaling_group, partial(EmulatedInstance, kind), network, screen.log)
    emulator_task = asyncio.create_task(emulator.run())
    context = DemoContext(
        aws, deployed, emulator, screen, MODEL,
        reference=engine.reference, fleet_size=_NODES, ready_timeout_s=engine.ready_timeout_s,
    )  # fmt: skip
    scenario_task = asyncio.create_task(_run_scenario(context, options))
    try:
        done, _ = await asyncio.wait({emulator_task, scenario_task}, return_when=asyncio.FIRST_COMPLETED)
        return await scenario_task if scenario_task in done else await _raise_loop_error(emulator_task)
    except asyncio.CancelledError:
        if context.passed is None:
            raise
        return context.passed  # the report is written; Ctrl-C ends --stay
    finally:
        for task in (emulator_task, scenario_task):
            task.cancel()
        await asyncio.gather(emulator_task, scenario_task, return_exceptions=True)
        await context.http.aclose()


async def _raise_loop_error(emulator_task: asyncio.Task[None]) -> bool:
    await emulator_task  # raises what stopped it
    raise LocalRunError("the EC2 emulator ended by itself")


async def _run_scenario(context: DemoContext, options: Options) -> bool:
    screen, emulator = context.screen, context.emulator
    await context.wait_until_ready()
    screen.node_table(await context.nodes())

    screen.heading("1  EC2 wants an instance back, with notice")
    screen.log(f"(EC2 gives about 120 s; here {NOTICE_LEAD_S:.0f} s, so that the stream must be handed off)")

    async def notice(instance: EmulatedInstance) -> None:
        await emulator.interrupt(instance, NOTICE_LEAD_S)

    request = DemoRequest(True, "Tell me a long story.", _MAX_TOKENS)
    notices = await interrupt_stream(context, "chat through a notice", request, "notice", notice)

    screen.heading("2  A node dies without a word")
    screen.log("first the replacement joins")
    await context.wait_until_ready()

    async def kill(instance: EmulatedInstance) -> None:
        await asyncio.to_thread(instance.kill)

    request = DemoRequest(False, "It was a dark night", _MAX_TOKENS)
    kills = await interrupt_stream(context, "completion through a SIGKILL", request, "sigkill", kill)

    screen.heading("3  The fleet is whole again")
    await context.wait_until_ready()
    screen.node_table(await context.nodes())
    context.passed = _write_report(context, options, {"notice": notices, "sigkill": kills})
    if options.stay:
        await _wait_until_stopped(context)
    return context.passed


def _write_report(context: DemoContext, options: Options, interruptions: dict[str, int]) -> bool:
    screen = context.screen
    document = certificates.build_certificate(
        options.engine, None, interruptions, context.outcomes, context.screen.elapsed_s
    )
    path = options.out / "certificate.json"
    path.write_text(certificates.to_json(document))
    screen.heading(f"The continuity certificate ({os.path.relpath(path)})")
    screen.print_text(certificates.to_json(document))
    is_passed = certificates.passed(document)
    screen.log(
        f"{'kept' if is_passed else 'BROKEN'}: an interruption costs a client a pause, never a token "
        f"(first token after {context.first_token_s or 0:.1f} s)",
        style="bold green" if is_passed else "bold red",
    )
    return is_passed


async def _wait_until_stopped(context: DemoContext) -> None:
    instance = context.emulator.instances[0]
    context.screen.heading(f"Up at {instance.url}/v1 until Ctrl-C; try it:")
    body = f'{{"model": "{MODEL}", "stream": true, "messages": [{{"role": "user", "content": "hello"}}]}}'
    context.screen.print_text(
        f"curl -N {instance.url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
