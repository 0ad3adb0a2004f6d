"""`make run`: the whole system on one machine, and two nodes of it taken away while clients read.

    python -m local.demo.__main__ [--engine vllm|sim] [--stay] [--out FOLDER]

Exit code 0: the promise was kept. 1: it was not, or something failed; the line printed last says what. 2: something
has to be mended by a person first. 130: stopped before the story was told.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from local import certificate as certificates
from local.aws import EmbeddedAws
from local.demo.context import DemoContext
from local.demo.runner import NOTICE_LEAD_S, interrupt_stream
from local.demo.screen import Screen
from local.deploy import ROOT, deploy
from local.ec2_emulator import Ec2Emulator
from local.emulated_instance import EmulatedInstance, InstanceTemplate, free_network
from local.engines import MODEL, SIM, VLLM, prepare_engine
from local.errors import LocalRunError, UserActionRequired
from local.listener import DemoRequest
from local.process_cleanup import CleanupProcess, tail

_MAX_TOKENS = 3000
_NODES = 3
_WIDTH = 120


@dataclass(frozen=True)
class Options:
    """What a person may choose. stay: up after the story, until Ctrl-C; out: where logs and certificate go."""

    engine: str
    stay: bool
    out: Path

    @property
    def logs(self) -> Path:
        return self.out / "logs"


def main() -> int:
    options = _options()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # nothing here may reach a real account, or depend on one
    console = Console()
    screen = Screen(console if console.is_terminal else Console(width=_WIDTH))
    try:
        kept = asyncio.run(_interruptible(options, screen))
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
    return 0 if kept else 1


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="make run", description="The whole system on one machine.")
    parser.add_argument("--engine", choices=(VLLM, SIM), default=VLLM)
    parser.add_argument("--stay", action="store_true", help="stay up after the story, until Ctrl-C")
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where logs and the certificate go")
    given = parser.parse_args()
    return Options(given.engine, given.stay, given.out.resolve())


async def _interruptible(options: Options, screen: Screen) -> bool:
    """The run, with SIGTERM and SIGHUP treated as Ctrl-C."""
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("asyncio.run gives a task")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    folder = options.out / "run" / secrets.token_hex(4)
    cleanup = CleanupProcess(folder)
    try:
        return await _run(options, screen, folder, cleanup.scratch)
    finally:
        if not cleanup.finish():
            screen.log("a process of this run would not end", style="bold red")


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
    screen.log("deployed: the stacks state, fleet and events")
    environ = {**aws.environ(), **engine.environ, "TMPDIR": str(scratch)}
    kind = InstanceTemplate(
        deployed.cluster, MODEL, engine.model_dir, engine.command, environ, folder / "nodes", options.logs
    )
    loop = Ec2Emulator(aws, deployed.auto_scaling_group, kind, network, screen.log)
    playing = asyncio.create_task(loop.run())
    stage = DemoContext(
        aws, deployed, loop, screen, MODEL,
        reference=engine.reference, fleet_size=_NODES, ready_timeout_s=engine.ready_timeout_s,
    )  # fmt: skip
    telling = asyncio.create_task(_run_scenario(stage, options))
    try:
        done, _ = await asyncio.wait({playing, telling}, return_when=asyncio.FIRST_COMPLETED)
        return await telling if telling in done else await _raise_loop_error(playing)
    except asyncio.CancelledError:
        if stage.passed is None:
            raise
        return stage.passed  # the story was told; Ctrl-C is how staying up ends
    finally:
        for task in (playing, telling):
            task.cancel()
        await asyncio.gather(playing, telling, return_exceptions=True)
        await stage.http.aclose()


async def _raise_loop_error(playing: asyncio.Task[None]) -> bool:
    await playing  # raises what stopped it
    raise LocalRunError("the loop that plays EC2 ended by itself")


async def _run_scenario(stage: DemoContext, options: Options) -> bool:
    screen, loop = stage.screen, stage.emulator
    await stage.wait_until_ready()
    screen.node_table(await stage.nodes())

    screen.heading("1  EC2 wants an instance back, with notice")
    screen.log(f"(EC2 gives about 120 s; here {NOTICE_LEAD_S:.0f} s, so that the stream must be handed off)")

    async def notice(machine: EmulatedInstance) -> None:
        await loop.interrupt(machine, NOTICE_LEAD_S)

    question = DemoRequest(True, "Tell me a long story.", _MAX_TOKENS)
    notices = await interrupt_stream(stage, "chat through a notice", question, "notice", notice)

    screen.heading("2  A node dies without a word")
    screen.log("first the replacement joins")
    await stage.wait_until_ready()

    async def kill(machine: EmulatedInstance) -> None:
        await asyncio.to_thread(machine.kill)

    question = DemoRequest(False, "It was a dark night", _MAX_TOKENS)
    kills = await interrupt_stream(stage, "completion through a SIGKILL", question, "sigkill", kill)

    screen.heading("3  The fleet is whole again")
    await stage.wait_until_ready()
    screen.node_table(await stage.nodes())
    stage.passed = _write_report(stage, options, {"notice": notices, "sigkill": kills})
    if options.stay:
        await _wait_until_stopped(stage)
    return stage.passed


def _write_report(stage: DemoContext, options: Options, interruptions: dict[str, int]) -> bool:
    screen = stage.screen
    document = certificates.build_certificate(
        options.engine, None, interruptions, stage.outcomes, stage.screen.elapsed_s
    )
    path = options.out / "certificate.json"
    path.write_text(certificates.to_json(document))
    screen.heading(f"The continuity certificate ({os.path.relpath(path)})")
    screen.print_text(certificates.to_json(document))
    kept = certificates.passed(document)
    screen.log(
        f"{'kept' if kept else 'BROKEN'}: an interruption costs a client a pause, never a token "
        f"(first token after {stage.first_token_s or 0:.1f} s)",
        style="bold green" if kept else "bold red",
    )
    return kept


async def _wait_until_stopped(stage: DemoContext) -> None:
    machine = stage.emulator.instances[0]
    stage.screen.heading(f"Up at {machine.url}/v1 until Ctrl-C; try it:")
    body = f'{{"model": "{MODEL}", "stream": true, "messages": [{{"role": "user", "content": "hello"}}]}}'
    stage.screen.print_text(
        f"curl -N {machine.url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
