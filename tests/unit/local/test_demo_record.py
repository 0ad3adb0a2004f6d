"""The recording of `make run`: from lines with times to an SVG, and the one that README shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from local.demo.record import MAX_WAIT_S, record, shorten_waits, to_svg, visible

SVG = Path(__file__).parents[3] / "docs" / "img" / "make-run.svg"
MAX_BYTES = 150_000
LINES = [(0.1, "first"), (9.1, "\x1b[1;31mSIGKILL\x1b[0m <node> & more"), (9.3, "last")]


def test_a_recorded_line_has_no_progress_that_was_shown_for_a_moment() -> None:
    assert visible("\r\x1b[2K⠋ wait (1 s)\r\x1b[2K⠙ wait (2 s)\r\x1b[2K  2.0 s  ready\r".encode()) == "  2.0 s  ready"


def test_waits_are_shortened_and_nothing_else() -> None:
    assert [round(at, 1) for at, _ in shorten_waits(LINES)] == [0.1, 0.1 + MAX_WAIT_S, 0.3 + MAX_WAIT_S]


def test_the_animation_is_well_formed_and_has_each_line_with_its_style() -> None:
    svg = to_svg(LINES)
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    texts = ["".join(text.itertext()) for text in found]
    assert texts == ["first", "SIGKILL <node> & more", "last"]
    assert '<tspan class="red b">SIGKILL</tspan>' in svg
    assert len(re.findall(r"[\d.]+%\{transform", svg)) == len(LINES) + 2
    assert "<script" not in svg


def test_a_command_is_recorded_in_a_terminal_with_its_status() -> None:
    lines, status = record([sys.executable, "-c", "import sys; print(sys.stdout.isatty()); sys.exit(3)"])
    assert ([line for _, line in lines], status) == (["True"], 3)


def test_readmes_recording_is_small_and_shows_the_three_seams_and_the_cut() -> None:
    svg = SVG.read_text(encoding="utf-8")
    assert len(svg.encode()) < MAX_BYTES
    for text in (": notice, pause", ": lost, pause", ": resumed, pause", "CUT after", "KEPT"):
        assert text in svg
    ElementTree.fromstring(svg)
