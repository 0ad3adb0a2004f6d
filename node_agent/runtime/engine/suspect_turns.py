"""Send suspects to this node's engine one at a time, so that the next death identifies the request that caused it.

A suspect is a request that an engine died under before (`core/failure/crash_suspects`).
"""

from __future__ import annotations

import asyncio

_TURN_TIMEOUT_S = 10.0
"""How long a suspect waits for those before it to be answered."""

_FEW_SUSPECTS = 8
_BUSY_TURN_TIMEOUT_S = 1.0
"""The same with more suspects: after a busy engine's end there may be hundreds, nearly all of them innocent."""


class Turn:
    """A suspect's turn: until the engine has begun to answer it, or it is over."""

    def __init__(self, lock: asyncio.Lock, *, has_lock: bool) -> None:
        self._lock = lock
        self._has_lock = has_lock

    def release(self) -> None:
        """End the turn, so that the next suspect has its own; may be called again."""
        if self._has_lock:
            self._has_lock = False
            self._lock.release()


class SuspectTurns:
    """The turns at one engine."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def acquire(self) -> Turn:
        """Wait, for a bounded time, until the suspects before this one are answered."""
        has_lock = False
        within_s = _TURN_TIMEOUT_S if self._waiting < _FEW_SUSPECTS else _BUSY_TURN_TIMEOUT_S
        self._waiting += 1
        try:
            async with asyncio.timeout(within_s):
                has_lock = await self._lock.acquire()
        except TimeoutError:
            pass  # runs beside others: an engine's end then identifies it less
        finally:
            self._waiting -= 1
        return Turn(self._lock, has_lock=has_lock)
