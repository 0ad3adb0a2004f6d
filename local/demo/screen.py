"""Prints the run's progress, each line with the seconds since its start."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node_agent.contract.table_schema import NodeRecord
from node_agent.contract.timestamps import format_instant

_CYAN, _PLAIN = "\x1b[36m", "\x1b[0m"
_COLOURS = {"ready": "green", "starting": "yellow", "draining": "magenta", "at-risk": "yellow", "gone": "red"}


class Screen:
    """Prints log lines, the text of a stream, and tables."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._in_stream = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._began

    def log(self, text: str, style: str = "") -> None:
        """Print a line with its time. style: rich's; markup in the text is printed as it is."""
        self._end_stream()
        self._console.print(f"[dim]{self.elapsed_s:6.1f} s[/dim]  {escape(text)}", style=style, highlight=False)

    def heading(self, text: str) -> None:
        """Print a heading, without a time."""
        self._end_stream()
        self._console.print(f"\n[bold]{escape(text)}[/bold]")

    def write_stream(self, text: str) -> None:
        """Print more of the text that a client reads, as it arrives."""
        # Not through rich: it takes milliseconds for each piece, and this process times the pauses, too.
        out = self._console.file
        if not self._in_stream and self._console.is_terminal:
            out.write(_CYAN)
        self._in_stream = True
        out.write(text)
        out.flush()

    def _end_stream(self) -> None:
        if self._in_stream:
            self._in_stream = False
            self._console.file.write(f"{_PLAIN if self._console.is_terminal else ''}\n")

    def node_table(self, nodes: list[dict[str, Any]]) -> None:
        """Print the nodes. nodes: as /v1/synkti/nodes lists them."""
        self._end_stream()
        table = Table("node", "state", "zone", "type", "client API", "at its engine", box=None, pad_edge=False)
        for node in sorted(nodes, key=lambda n: n["front"]):
            colour = _COLOURS.get(node["state"], "white")
            state = f"[{colour}]{node['state']}[/{colour}]"
            table.add_row(
                node["instance_id"], state, node["zone"], node["instance_type"], node["front"], str(node["in_flight"])
            )
        self._console.print(table)

    def timeline(self, record: NodeRecord, tags: list[tuple[float, dict[str, str]]]) -> None:
        """Print the record of a node that was interrupted. tags: each value with its unix seconds."""
        self._end_stream()
        table = Table("when", "step", "source", title=f"record of {record.instance_id}: {record.state}", box=None)
        for step in record.story:
            table.add_row(format_instant(step.at)[11:23], step.step, step.source)
        self._console.print(table)
        for at, current_tags in tags:
            logged = (
                ", ".join(f"{key.removeprefix('Synkti')}={value}" for key, value in sorted(current_tags.items()))
                or "none"
            )
            self._console.print(f"  {format_instant(at)[11:23]}  tags: {logged}", highlight=False)

    def print_text(self, text: str) -> None:
        """Print a text as it is: a document, a command to copy."""
        self._end_stream()
        self._console.print(text, markup=False, soft_wrap=True)
