"""An event loop whose clock jumps: minutes of a whole agent, with real sockets of 127.0.0.0/8, in a second.

Bytes between two sockets of one loop are there at once, so that a moment without any means that all wait for a timer.
Its clock moves in steps, and looks at the sockets after each: what the kernel delivers late is late by one step.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

_STEP_S = 0.25
_LOOK_S = 0.0005
_T = TypeVar("_T")


class _Selector(selectors.DefaultSelector):
    moves: Callable[[float], None]
    look_s = _LOOK_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        ready = super().select(self.look_s)
        if not ready and timeout is not None:
            self.moves(min(timeout, _STEP_S))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """time() is virtual; what is given to threads takes no virtual time that a test could rely on.

    sockets: whether there are any, which take a moment of real time at each step.
    """

    def __init__(self, *, sockets: bool = True) -> None:
        self._now = 1_000.0
        selector = _Selector()
        selector.moves = self._move
        if not sockets:
            selector.look_s = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def _move(self, seconds: float) -> None:
        self._now += seconds


def run_virtual(scenario: Callable[[], Coroutine[Any, Any, _T]], *, sockets: bool = True) -> _T:
    """Run a scenario on virtual time and return its result. sockets: True if it uses sockets."""
    with asyncio.Runner(loop_factory=partial(VirtualLoop, sockets=sockets)) as runner:
        return runner.run(scenario())
