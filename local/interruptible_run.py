"""Runs a program of this package so that signals cancel it and none of its processes outlives it."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from local.process_cleanup import CleanupProcess


async def run_with_cleanup(
    out: Path,
    run: Callable[[Path, Path], Awaitable[bool]],
    log: Callable[[str], None],
    on_stop: Callable[[], None] = lambda: None,
) -> bool:
    """Run with a new folder below `out`, then end every process that works in it.

    SIGTERM, SIGHUP and SIGINT cancel it.

    Args:
        out: where the folder is created.
        run: called with the run's folder and a scratch folder with a short path.
        log: called if a process could not be ended.
        on_stop: called at such a signal, before anything else ends.

    Returns:
        What `run` returns.

    Raises:
        AssertionError: it is not run in a task, as asyncio.run does.
    """
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("asyncio.run gives a task")

    def stop() -> None:
        on_stop()
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    folder = out / "run" / secrets.token_hex(4)
    cleanup = CleanupProcess(folder)
    try:
        return await run(folder, cleanup.scratch)
    finally:
        if not cleanup.finish():
            log("a process of this run did not end")
