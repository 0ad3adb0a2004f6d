"""Spread the work of many tasks over turns of the event loop: hundreds of streams may lose their node at once."""

from __future__ import annotations

import asyncio
from collections import deque

PER_TURN = 4
"""Tasks that proceed in one turn: each has about a millisecond to compute."""


class LoopTurns:
    """Lets a few tasks proceed in each turn of the event loop, in the order in which they came."""

    def __init__(self, per_turn: int = PER_TURN) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False

    async def wait(self) -> None:
        """Return at once where this turn has room, else in a later one."""
        loop = asyncio.get_running_loop()
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._begin_turn)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _begin_turn(self) -> None:
        self._left = self._per_turn
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # its task may have been cancelled
                self._left -= 1
                turn.set_result(None)
        self._is_scheduled = self._left < self._per_turn
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._begin_turn)
