"""Records `make run` as an animated SVG, from the output of a real run with its times.

    python -m local.demo.record [--engine sim|vllm] [--svg docs/img/make-run.svg]

The run has a terminal of its own (a pty), so that it prints colours. Waits above a second are shortened. The animation
is CSS, without a script; where a reader prefers no motion, the end is shown.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.text import Text

from local.deploy import ROOT

COLUMNS, ROWS = 110, 30
MAX_WAIT_S = 1.0
HOLD_S = 6.0
"""How long the end is shown before the animation begins again."""

_CHAR_PX, _LINE_PX, _MARGIN_PX = 7.8, 17, 14
_CLEAR_LINE = b"\r\x1b[2K"
_READ_BYTES = 65536
_COLORS = {
    "red": "#ff7b72", "green": "#7ee787", "yellow": "#e3b341", "blue": "#79c0ff", "magenta": "#d2a8ff",
    "cyan": "#76e3ea", "black": "#0d1117", "white": "#e6edf3",
}  # fmt: skip

_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
"""ANSI's colours, in the order of their numbers; the bright ones follow in the same order."""

TimedLine = tuple[float, str]
"""Seconds since the start, and a line with ANSI styles."""


def record(argv: Sequence[str]) -> tuple[list[TimedLine], int]:
    """Run a command in a terminal of its own; return its lines with their times, and its status."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    began, lines, buffer = time.monotonic(), [], b""
    while True:
        try:
            data = os.read(master, _READ_BYTES)
        except OSError:  # the end of a pty
            break
        if not data:
            break
        *whole, buffer = (buffer + data).split(b"\n")
        lines += [(time.monotonic() - began, visible(line)) for line in whole]
    os.close(master)
    return lines, process.wait()


def visible(line: bytes) -> str:
    """Return what stays of a line, without what was printed only for a moment."""
    return line.rstrip(b"\r").rpartition(_CLEAR_LINE)[2].decode(errors="replace")


def shorten_waits(lines: Sequence[TimedLine]) -> list[TimedLine]:
    """Return the lines with no more than MAX_WAIT_S between two."""
    shortened, at, last = [], 0.0, 0.0
    for printed_at, line in lines:
        at += min(MAX_WAIT_S, printed_at - last)
        last = printed_at
        shortened.append((at, line))
    return shortened


def to_svg(lines: Sequence[TimedLine]) -> str:
    """Return the animation: the lines scroll up from the bottom of a terminal as they were printed."""
    total_s = lines[-1][0] + HOLD_S
    width, height = round(COLUMNS * _CHAR_PX + 2 * _MARGIN_PX), ROWS * _LINE_PX + 2 * _MARGIN_PX
    steps: list[str] = []
    shown = -1.0
    for number, (at, _) in enumerate(lines):
        percent = round(at / total_s * 100, 2)
        step = f"{percent}%{{transform:translateY({(ROWS - 1 - number) * _LINE_PX}px)}}"
        steps = [*steps[:-1], step] if percent == shown else [*steps, step]
        shown = percent
    end = f"transform:translateY({(ROWS - len(lines)) * _LINE_PX}px)"
    texts = "".join(
        f'<text y="{(number + 1) * _LINE_PX - 4}">{_spans(line)}</text>' for number, (_, line) in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
        f"<title>A run of make run: three interruptions, and not a token lost</title>"
        f"<style>text{{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#c9d1d9;white-space:pre}}"
        f".b{{font-weight:bold}}.d{{fill:#8b949e}}"
        + "".join(f".{name}{{fill:{value}}}" for name, value in _COLORS.items())
        + f"#lines{{{end};animation:scroll {total_s:.1f}s step-end infinite}}"
        f"@keyframes scroll{{0%{{transform:translateY({ROWS * _LINE_PX}px)}}{''.join(steps)}100%{{{end}}}}}"
        "@media (prefers-reduced-motion:reduce){#lines{animation:none}}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>'
        f'<svg x="{_MARGIN_PX}" y="{_MARGIN_PX}" width="{width - 2 * _MARGIN_PX}" height="{height - 2 * _MARGIN_PX}">'
        f'<g id="lines">{texts}</g></svg></svg>\n'
    )


def _spans(line: str) -> str:
    """Return a line's text as SVG, with a class for each style. A background becomes the colour of its text."""
    console = Console(color_system="standard", width=COLUMNS)
    spans = []
    for segment in Text.from_ansi(line).render(console):
        style = segment.style
        color = (style.bgcolor or style.color) if style is not None else None
        classes = [_NAMES[color.number % len(_NAMES)]] if color is not None and color.number is not None else []
        classes += ["b"] if style is not None and style.bold else []
        classes += ["d"] if style is not None and style.dim else []
        text = escape(segment.text.rstrip("\n"), quote=False)
        spans.append(f'<tspan class="{" ".join(classes)}">{text}</tspan>' if classes else text)
    return "".join(spans)


def main() -> int:
    """Record a run and write the SVG; return the run's status."""
    parser = argparse.ArgumentParser(prog="python -m local.demo.record", description=__doc__)
    parser.add_argument("--engine", default="sim")
    parser.add_argument("--svg", type=Path, default=ROOT / "docs" / "img" / "make-run.svg")
    options = parser.parse_args()
    lines, status = record([sys.executable, "-m", "local.demo.__main__", "--engine", options.engine])
    if status == 0:
        options.svg.parent.mkdir(parents=True, exist_ok=True)
        options.svg.write_text(to_svg(shorten_waits(lines)), encoding="utf-8")
        print(f"{options.svg}: {options.svg.stat().st_size / 1024:.0f} KiB, {len(lines)} lines")
    else:
        print("\n".join(line for _, line in lines[-20:]), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
