"""Print a command's results on standard output, and its progress on standard error.

With `--json` standard output has one document and nothing else, and nothing goes to standard error. Only terminals get
color and animations.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from cli.core.columns import GAP, columns_that_fit
from cli.errors import Declined

_PROGRESS_INTERVAL_S = 10.0
UNLIMITED_WIDTH = 10_000
"""The width for files and pipes: lines are not wrapped there."""


class Terminal:
    """The two output streams. as_json: print one document on standard output, and nothing else."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def is_animated(self) -> bool:
        """True where standard error is a terminal, which can show bars and spinners."""
        return self.err.is_terminal and not self.as_json

    @property
    def is_interactive(self) -> bool:
        """True where a person can answer."""
        return not self.as_json and sys.stdin.isatty()

    def status(self, text: str, style: str = "") -> None:
        """Print a line about the progress; not with `--json`."""
        if not self.as_json:
            self.err.print(text, style=style, markup=False, soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        """Print a line of the result; not with `--json`."""
        if not self.as_json:
            self.out.print(text, style=style, markup=False, soft_wrap=True)

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[str]],
        styles: Sequence[str] = (),
        droppable: Sequence[str] = (),
    ) -> None:
        """Print rows of the result; not with `--json`. styles: one for each row, or none; droppable: as build_table."""
        if not self.as_json:
            table = build_table(headers, rows, styles, droppable, self.out.width)
            # Lines that are wider than the terminal are wrapped by the terminal: a cut address is of no use.
            width, self.out.width = self.out.width, UNLIMITED_WIDTH
            self.out.print(table)
            self.out.width = width

    def document(self, value: object) -> None:
        """Print the result as JSON; only with `--json`."""
        if self.as_json:
            self.out.file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def json_line(self, value: object) -> None:
        """Print one of several results as a line of JSON."""
        self.out.file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self.out.file.flush()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask for confirmation, unless `yes` is set. Raises Declined."""
        if yes:
            return
        confirmed = self.answer(question)
        if confirmed is None:
            raise Declined(f"there is no terminal to confirm: {question}", "add --yes")
        if not confirmed:
            raise Declined("nothing was done")

    def answer(self, question: str) -> bool | None:
        """Return whether a person answers yes; None where there is no terminal for the question."""
        if not self.is_interactive:
            return None
        self.err.print(f"{question} [y/N] ", end="", markup=False)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def ask(self, question: str, default: str) -> str:
        """Ask a person for a text; return the default for an empty answer, and where there is no terminal."""
        if not self.is_interactive:
            return default
        self.err.print(f"{question} [{default}]: ", end="", markup=False)
        return sys.stdin.readline().strip() or default

    @contextmanager
    def spinner(self, what: str) -> Iterator[None]:
        """Show a spinner on a terminal, a line elsewhere, during a short operation."""
        if self.is_animated:
            with self.err.status(what):
                yield
        else:
            self.status(f"{what} ...")
            yield

    @contextmanager
    def progress_spinner(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show a spinner whose text can change: the context's value is a function that sets it."""
        if self.is_animated:
            with self.err.status(what) as status:
                yield lambda step: status.update(Text(step))
        else:
            self.status(f"{what} ...")
            yield lambda step: None

    def transfer(self, what: str, total: int) -> Transfer:
        """Return a progress bar for this many bytes."""
        return Transfer(self, what, total)


class Transfer:
    """The progress of a transfer: a bar on a terminal, elsewhere a line every ten seconds. `add` is thread-safe."""

    def __init__(self, terminal: Terminal, what: str, total: int) -> None:
        self._terminal = terminal
        self._what = what
        self._total = total
        self._done = 0
        self._printed_at = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
        self._bar = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=terminal.err)

    def __enter__(self) -> Transfer:
        if self._terminal.is_animated:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        elif self._total:
            self._terminal.status(f"{self._what}: {human_bytes(self._total)} ...")
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal.is_animated:
            self._bar.stop()

    def add(self, count: int) -> None:
        """Count bytes as done."""
        if self._terminal.is_animated:
            self._bar.advance(self._task, count)
            return
        self._done += count
        now = time.monotonic()
        if now - self._printed_at >= _PROGRESS_INTERVAL_S:
            self._printed_at = now
            self._terminal.status(f"{self._what}: {human_bytes(self._done)} of {human_bytes(self._total)}")


def build_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
    droppable: Sequence[str] = (),
    width: int = UNLIMITED_WIDTH,
) -> Table:
    """Build a table with headers and without borders.

    Args:
        headers: of the columns.
        rows: their cells.
        styles: one for each row, or none.
        droppable: headers of columns that are left out where the terminal is narrow, the least important first.
        width: of the terminal, in characters.

    Returns:
        The table, whose cells are never cut.
    """
    shown = columns_that_fit(headers, rows, droppable, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for at in shown:
        table.add_column(headers[at], no_wrap=True)
    for number, row in enumerate(rows):
        # Text, because an address or a message may look like markup.
        table.add_row(*(Text(row[at]) for at in shown), style=styles[number] if styles else None)
    return table


def human_bytes(count: float) -> str:
    """Return a size with a readable unit: 15.0 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_age(seconds: float) -> str:
    """Return a duration in its largest unit: 45 s, 12 min, 3 h, 5 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=UNLIMITED_WIDTH)
