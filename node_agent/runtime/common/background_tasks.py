"""Run short work beside the event that caused it: its exception is reported, not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from node_agent.runtime.common.supervised_task import Unexpected


class BackgroundTasks:
    """Starts tasks, and holds each one until it is done, because the event loop holds tasks only weakly."""

    def __init__(self, unexpected: Unexpected) -> None:
        self._unexpected = unexpected
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start work that may end at any time; what it raises is a bug of "background"."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._unexpected.report("background", error)
