"""Runs the parts one after another, each with its deadline; keeps the logs of a part that failed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from local.boot.machine import BootedInstance
from local.boot.parts import PARTS
from local.boot.scene import Scene
from local.boot.summary import Outcome
from local.errors import LocalRunError
from local.process_cleanup import tail

_JOURNAL = "journalctl --boot --no-pager --output short-precise --unit 'synkti*' --unit 'cloud-*'"
_LINES = 40


async def run_parts(scene: Scene, names: Sequence[str]) -> list[Outcome]:
    """Run the parts. After one that failed the next one is run if the fleet is whole again.

    Returns:
        Each part's outcome.
    """
    emulator = asyncio.create_task(scene.emulator.run())
    outcomes = []
    try:
        for name in names:
            outcome = await _run_part(scene, name, emulator)
            outcomes.append(outcome)
            if outcome.failure and not await _is_whole(scene, emulator):
                break
    finally:
        emulator.cancel()
        await asyncio.gather(emulator, return_exceptions=True)
    return outcomes + [Outcome(name, PARTS[name].shows) for name in names[len(outcomes) :]]


async def _run_part(scene: Scene, name: str, emulator: asyncio.Task[None]) -> Outcome:
    scene.screen.heading(name)
    part, began = PARTS[name], time.monotonic()
    task = asyncio.create_task(part.run(scene))
    await asyncio.wait({emulator, task}, timeout=part.deadline_s, return_when=asyncio.FIRST_COMPLETED)
    failure = ""
    if not task.done():
        failure = await _stopped(emulator) if emulator.done() else f"no end within {part.deadline_s:.0f} s"
        task.cancel()
    try:
        await task
    except (LocalRunError, BotoCoreError, ClientError, httpx.HTTPError) as error:
        failure = failure or str(error)
    except asyncio.CancelledError:
        if not failure:  # this run is stopped, not its part
            raise
    outcome = Outcome(name, part.shows, time.monotonic() - began, failure)
    if failure:
        scene.screen.log(f"{name}: {failure}", style="bold red")
        await asyncio.to_thread(_keep_logs, scene, scene.template.logs / f"failed-{name}")
    return outcome


async def _stopped(emulator: asyncio.Task[None]) -> str:
    """Return why the emulator ended."""
    try:
        await emulator
    except LocalRunError as error:
        return str(error)
    return "the emulator of the group ended"


async def _is_whole(scene: Scene, emulator: asyncio.Task[None]) -> bool:
    if emulator.done():
        return False
    scene.template.variants.clear()
    with contextlib.suppress(LocalRunError):
        await scene.fleet()
        return True
    return False


def _keep_logs(scene: Scene, folder: Path) -> None:
    """Write the journal of each instance into a folder, and print the last lines of it and of the console."""
    folder.mkdir(parents=True, exist_ok=True)
    for instance in list(scene.emulator.instances):
        journal = _journal(instance)
        (folder / f"{instance.instance_id}.journal").write_text(journal)
        last = "\n".join(journal.splitlines()[-_LINES:])
        scene.screen.print_text(f"{instance.log}:\n{tail(instance.log)}\n{last}")
    scene.screen.log(f"the whole journals are in {folder}")


def _journal(instance: BootedInstance) -> str:
    try:
        return instance.container.run(_JOURNAL)
    except LocalRunError as error:
        return str(error)
