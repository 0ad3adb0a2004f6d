"""Shared parts of the benchmarks' commands: a folder for each run, exit codes, tables."""

from __future__ import annotations

import argparse
import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from local.demo.screen import Screen
from local.errors import LocalRunError, UserActionRequired
from local.process_cleanup import CleanupProcess
from node_agent.contract.errors import SynktiError

_WIDTH = 120


@dataclass(frozen=True)
class RunFolder:
    """A run's folders. folder: where its processes work, so that none outlives it; scratch: for temporary files."""

    console: Console
    screen: Screen
    folder: Path
    scratch: Path


def parse_rounds(module: str, default: int, what: str) -> int:
    """Read the number of rounds, the only option. what: describes one round in the help."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--rounds", type=int, default=default, help=what)
    given: int = parser.parse_args().rounds
    if given < 1:
        parser.error("--rounds must be 1 at least")
    return given


def run(name: str, out: Path, measure: Callable[[RunFolder], None]) -> int:
    """Run a benchmark; return 0 if it measured, 1 on a failure, 2 if the user has to fix something, 130 if stopped."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    screen = Screen(console)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    folder = out / name / secrets.token_hex(4)
    undertaker = CleanupProcess(folder)
    try:
        measure(RunFolder(console, screen, folder, undertaker.scratch))
    except (LocalRunError, SynktiError) as error:
        screen.log(str(error), style="bold red")
        return 2 if isinstance(error, UserActionRequired) else 1
    except KeyboardInterrupt:
        screen.log("stopped")
        return 130
    finally:
        if not undertaker.finish():
            screen.log("a process of this run would not end", style="bold red")
    return 0


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = 2) -> Table:
    """Build a table. names: the number of first columns that are not figures."""
    made = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        made.add_column(head, justify="left" if number < names else "right")
    for row in rows:
        made.add_row(*row)
    return made
