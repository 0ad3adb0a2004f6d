"""An event loop whose clock jumps: minutes of a whole agent, with real sockets of 127.0.0.0/8, in a second.

Bytes between two sockets of one loop are there at once, so that a moment without any means that all wait for a timer.
Its clock moves in steps, and looks at the sockets after each: what the kernel delivers late is late by one step.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

_STEP_S = 0.25
_LOOK_S = 0.0005


class _Selector(selectors.DefaultSelector):
    moves: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        ready = super().select(_LOOK_S)
        if not ready and timeout is not None:
            self.moves(min(timeout, _STEP_S))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """time() is virtual; what is given to threads takes no virtual time that a test could rely on."""

    def __init__(self) -> None:
        self._now = 1_000.0
        selector = _Selector()
        selector.moves = self._move
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def _move(self, seconds: float) -> None:
        self._now += seconds


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story())
