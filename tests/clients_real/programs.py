"""Runs client programs: each streams one answer, and prints it as JSON when complete, or exits with an error."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from local.errors import LocalRunError
from local.setup import ROOT
from tests.clients_real.environments import Client, not_tested

SCRIPTS = Path(__file__).parent / "scripts"
_WITHIN_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """Result of a program. answer: (text, finish reason), None if it failed; error: then the end of its stderr."""

    answer: tuple[str, str | None] | None
    error: str = ""


@dataclass(frozen=True)
class Program:
    """A client program. client: its environment, None for a system command; script: below scripts/.

    command: the system command, without which it is not tested.
    """

    name: str
    client: Client | None
    script: str
    words: tuple[str, ...] = ()
    command: str | None = None

    def prepare(self) -> None:
        """Make the environment, before a fleet runs in this process: it may take minutes, in which no agent would run.

        Skips this test, or fails it in CI, without the environment or the system command.
        """
        if self.client is not None:
            self.client.folder()
        if self.command is not None and shutil.which(self.command) is None:
            not_tested(self.name, LocalRunError(f"{self.command} is not installed"))

    async def run(self, *arguments: str) -> Outcome:
        """Run the program. arguments: those of its script."""
        command = ["bash", str(SCRIPTS / self.script)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
        if self.client is not None:
            command[0] = self.client.program
            environ["CLIENT"] = str(self.client.folder())
        return await outcome_of([*command, *self.words, *arguments], environ)


async def outcome_of(command: list[str], environ: dict[str, str]) -> Outcome:
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_WITHIN_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return Outcome(None, f"no end after {_WITHIN_S:.0f} s")
    last_lines = err.decode(errors="replace").strip().splitlines()[-3:]
    lines = out.decode(errors="replace").strip().splitlines()
    if process.returncode or not lines:
        return Outcome(None, " | ".join(last_lines) or f"exit code {process.returncode}, nothing printed")
    output = json.loads(lines[-1])
    return Outcome((output["text"], output["reason"]))
