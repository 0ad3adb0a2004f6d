"""An event loop whose clock jumps to the next timer: hours pass in a moment, and never slower on a busy machine."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Where the loop would wait, its clock moves instead."""

    moves: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for something that never comes"
            self.moves(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 1_000.0
        selector = _Selector()
        selector.moves = self._move
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def _move(self, seconds: float) -> None:
        self._now += seconds


def play(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a story on virtual time; what it returns."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story())
