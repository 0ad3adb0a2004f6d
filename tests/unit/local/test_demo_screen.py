"""`make run` is never silent: what it waits for is on the screen, and in a pipe after two seconds without a line."""

from __future__ import annotations

import asyncio
import io

from rich.console import Console

from local.demo.screen import MAX_SILENCE_S, Screen

TIMEOUT_S = 20.0


async def until(output: io.StringIO, *texts: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not all(text in output.getvalue() for text in texts):  # noqa: ASYNC110 # nothing signals what is printed
            await asyncio.sleep(0.01)


def test_a_terminal_shows_what_the_run_waits_for_and_removes_it() -> None:
    async def run() -> str:
        output = io.StringIO()
        screen = Screen(Console(file=output, width=80, force_terminal=True))
        async with screen.waiting(lambda: "outer"):
            await until(output, "outer (0 s)")
            async with screen.waiting(lambda: "inner"):
                await until(output, "inner (0 s)")
                at = len(output.getvalue())
                await until(output, "⠼ inner")
                assert "outer" not in output.getvalue()[at:], "only the innermost is shown"
        screen.log("done")
        return output.getvalue()

    shown = asyncio.run(run())
    assert shown.rpartition("\r\x1b[2K")[2].strip().endswith("done"), "nothing of it stays"


def test_a_pipe_has_a_line_after_two_seconds_of_silence() -> None:
    async def run() -> str:
        output = io.StringIO()
        screen = Screen(Console(file=output, width=80), began=0.0)
        async with screen.waiting(lambda: "the nodes start"):
            await until(output, "... the nodes start (0 s)")
        return output.getvalue()

    assert MAX_SILENCE_S == 2.0
    assert "\x1b" not in asyncio.run(run())
