"""Prints the run's progress, each line with the seconds since its start.

On a terminal a line at the bottom shows what the run waits for; elsewhere a line does, every two seconds of silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from local.demo.panes import SEPARATOR, Line, Pane, length, rows
from local.demo.timeline import Step, tag_changes
from node_agent.contract.table_schema import NodeRecord

_COLOURS = {"ready": "green", "starting": "yellow", "draining": "magenta", "at-risk": "yellow", "gone": "red"}
_CLEAR_LINE = "\r\x1b[2K"
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
MAX_SILENCE_S = 2.0
"""After which a run without a terminal prints what it waits for."""

_TWO_PANES_FROM = 96
"""Columns of a terminal from which two streams are printed side by side."""


class Screen:
    """Prints log lines, streams side by side, and tables. began: monotonic seconds; None for now."""

    def __init__(self, console: Console, began: float | None = None) -> None:
        self._console = console
        self._began = time.monotonic() if began is None else began
        self._printed_at = self._began
        self._has_status = False
        self._waits: list[Callable[[], str]] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._began

    @property
    def width(self) -> int:
        """The number of columns."""
        return self._console.width

    def log(self, text: str, style: str = "") -> None:
        """Print a line with its time. style: rich's; markup in the text is printed as it is."""
        self._print(f"[dim]{self.elapsed_s:6.1f} s[/dim]  {escape(text)}", style=style)

    def heading(self, text: str) -> None:
        """Print a heading, without a time."""
        self._print(f"\n[bold]{escape(text)}[/bold]")

    def print_text(self, text: str, style: str = "") -> None:
        """Print a text as it is: a document, a command to copy."""
        self._print(Text(text, style=style), soft_wrap=True)

    @contextlib.asynccontextmanager
    async def waiting(self, what: Callable[[], str]) -> AsyncIterator[None]:
        """Show, during the block, what the run waits for and how long already.

        Of blocks within each other only the innermost is shown. what: returns it as a phrase.
        """
        self._waits.append(what)
        ticking = asyncio.create_task(self._show_wait(what, self.elapsed_s))
        try:
            yield
        finally:
            ticking.cancel()
            self._waits.remove(what)
            self._clear_status()

    async def _show_wait(self, what: Callable[[], str], began_s: float) -> None:
        for frame in _frames():
            await asyncio.sleep(_FRAME_S)
            if self._waits[-1] is not what:
                continue
            text = f"{what()} ({self.elapsed_s - began_s:.0f} s)"
            if self._console.is_terminal:
                shown = f"{frame} {text}"[: self.width - 1]
                self._console.file.write(f"{_CLEAR_LINE}{shown}")
                self._console.file.flush()
                self._has_status = True
            elif time.monotonic() - self._printed_at >= MAX_SILENCE_S - _FRAME_S:
                self.log(f"... {text}", style="dim")

    def node_table(self, nodes: list[dict[str, Any]]) -> None:
        """Print the nodes. nodes: as /v1/synkti/nodes lists them."""
        table = Table("node", "state", "zone", "type", "client API", box=None, pad_edge=False)
        for node in sorted(nodes, key=lambda n: n["front"]):
            colour = _COLOURS.get(node["state"], "white")
            state = f"[{colour}]{node['state']}[/{colour}]"
            table.add_row(node["instance_id"], state, node["zone"], node["instance_type"], node["front"])
        self._print(table)

    def timeline(self, record: NodeRecord, steps: list[Step], tags: list[tuple[float, dict[str, str]]]) -> None:
        """Print the record of a node that was interrupted. tags: each value with its unix seconds."""
        table = Table("when", "step", "source", box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for step in steps:
            table.add_row(step.when, step.step, step.source)
        for when, text in tag_changes(tags):
            table.add_row(when, text, "EC2 tags")
        self.log(f"the record in DynamoDB of {record.instance_id}, now {record.state}, by the deployed Lambdas:")
        self._print(table)

    def panes(self, *titles: str) -> Panes:
        """Begin to print one stream, or two side by side where the terminal is wide enough."""
        return Panes(self, titles)

    def row(self, text: Text) -> None:
        """Print a row of streams' texts."""
        self._print(text, soft_wrap=True)

    def _print(self, content: Any, **options: Any) -> None:
        self._clear_status()
        self._console.print(content, highlight=False, **options)
        self._printed_at = time.monotonic()

    def _clear_status(self) -> None:
        if self._has_status:
            self._has_status = False
            self._console.file.write(_CLEAR_LINE)


class Panes:
    """One stream or two in columns; where the terminal is narrow, the second is printed behind the first."""

    def __init__(self, screen: Screen, titles: tuple[str, ...]) -> None:
        self._screen = screen
        self._is_wide = screen.width >= _TWO_PANES_FROM
        columns = len(titles) if self._is_wide else 1
        width = (min(screen.width, 120) - len(SEPARATOR) * (columns - 1)) // columns
        self._titles = titles
        self.panes = tuple(Pane(width) for _ in titles)
        self._print(tuple(((title[:width], "bold"),) for title in titles[:columns]))

    def flush(self) -> None:
        """Print what is complete."""
        first = self.panes[0]
        if len(self.panes) == 1 or not self._is_wide:
            while first.lines:
                self._print((first.lines.popleft(),))
            return
        for pair in rows(*self.panes):
            self._print(pair)

    def close(self) -> None:
        """Print all that is left."""
        for pane in self.panes:
            pane.close()
        self.flush()
        if not self._is_wide:
            for title, pane in zip(self._titles[1:], self.panes[1:], strict=True):
                self._print((((title[: pane.width], "bold"),),))
                while pane.lines:
                    self._print((pane.lines.popleft(),))

    def _print(self, cells: tuple[Line, ...]) -> None:
        text = Text()
        for number, (cell, pane) in enumerate(zip(cells, self.panes, strict=False)):
            if number:
                text.append(SEPARATOR, style="dim")
            for part, style in cell:
                text.append(part, style=style)
            if number + 1 < len(cells):
                text.append(" " * (pane.width - length(cell)))
        self._screen.row(text)


def _frames() -> Any:
    while True:
        yield from _FRAMES
