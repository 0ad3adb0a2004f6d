"""What a command writes, and where: results on standard output, what happens meanwhile on standard error.

With `--json` standard output has one document and nothing else, and standard error is quiet. Colour, and anything that
moves, is for terminals only.
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

from cli.errors import Declined

_TELL_EVERY_S = 10.0
_WIDE = 10_000
"""Where nobody looks at it, a line is as long as it is: a file or a pipe has no right margin."""


class Terminal:
    """as_json: one document on standard output, nothing else anywhere."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def moves(self) -> bool:
        """Whether somebody looks at standard error now: bars and spinners make sense."""
        return self.err.is_terminal and not self.as_json

    def say(self, text: str, style: str = "") -> None:
        """What happens meanwhile; for people only."""
        if not self.as_json:
            self.err.print(text, style=style, markup=False, soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        """A line of the result, for people."""
        if not self.as_json:
            self.out.print(text, style=style, markup=False, soft_wrap=True)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Rows of the result, for people. styles: one for each row, or none."""
        if self.as_json:
            return
        self.out.print(made_table(headers, rows, styles))

    def document(self, value: object) -> None:
        """The result, for programs: with `--json` only."""
        if self.as_json:
            self.out.file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def json_line(self, value: object) -> None:
        """One result of several, on a line of its own."""
        self.out.file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self.out.file.flush()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask, where --yes was not given. Raises Declined."""
        if yes:
            return
        if self.as_json or not sys.stdin.isatty():
            raise Declined(f"nobody is there to answer: {question}", "add --yes")
        self.err.print(f"{question} [y/N] ", end="", markup=False)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Declined("nothing was done")

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Something that takes a moment: a spinner on a terminal, a line elsewhere."""
        if self.moves:
            with self.err.status(what):
                yield
        else:
            self.say(f"{what} ...")
            yield

    @contextmanager
    def working(self, what: str) -> Iterator[Callable[[str], None]]:
        """As `doing`, for something that says what it is at: give that to what is yielded, as often as you like."""
        if self.moves:
            with self.err.status(what) as status:
                yield lambda step: status.update(Text(step))
        else:
            self.say(f"{what} ...")
            yield lambda step: None

    def transfer(self, what: str, total: int) -> Transfer:
        """A bar for so many bytes."""
        return Transfer(self, what, total)


class Transfer:
    """Bytes that go somewhere: a bar on a terminal, elsewhere a line every ten seconds. Any thread may add."""

    def __init__(self, terminal: Terminal, what: str, total: int) -> None:
        self._terminal = terminal
        self._what = what
        self._total = total
        self._done = 0
        self._told_at = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
        self._bar = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=terminal.err)

    def __enter__(self) -> Transfer:
        if self._terminal.moves:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        elif self._total:
            self._terminal.say(f"{self._what}: {human_bytes(self._total)} ...")
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal.moves:
            self._bar.stop()

    def add(self, count: int) -> None:
        if self._terminal.moves:
            self._bar.advance(self._task, count)
            return
        self._done += count
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self._terminal.say(f"{self._what}: {human_bytes(self._done)} of {human_bytes(self._total)}")


def made_table(headers: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> Table:
    """Columns under their names, without lines around them."""
    table = Table(*headers, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, row in enumerate(rows):
        # As they are: an address or a message may look like markup.
        table.add_row(*map(Text, row), style=styles[number] if styles else None)
    return table


def human_bytes(count: float) -> str:
    """In the unit that makes it readable: 15.0 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_age(seconds: float) -> str:
    """How long ago, to the unit that matters: 45 s, 12 min, 3 h, 5 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDE)
