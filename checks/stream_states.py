"""Generate the diagram of a stream's states in docs/continuation.md: `python -m checks.stream_states`.

Its source is the table that both kinds of stream run on, `core/streams/state`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from checks.pages import replace_block
from node_agent.core.streams.state import TRANSITIONS, StreamState

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "continuation.md"
BEGIN, END = "<!-- states: made by checks/stream_states -->", "<!-- end of the states -->"


def render_diagram() -> str:
    """Return the table as a Mermaid diagram, in its code block."""
    arrows = [(state.name, following.name, event.value) for (state, event), following in TRANSITIONS.items()]
    lines = [
        f"[*] --> {StreamState.WAITING.name}",
        *(f"{state} --> {following}: {label}" for state, following, label in arrows),
        f"{StreamState.COMPLETE.name} --> [*]",
    ]
    return "```mermaid\nstateDiagram-v2\n" + "".join(f"    {line}\n" for line in lines) + "```\n"


def main() -> int:
    """Write the diagram into the page. Returns the exit code."""
    PAGE.write_text(replace_block(PAGE.read_text(), BEGIN, END, render_diagram()))
    print(f"{len(TRANSITIONS)} transitions in {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
