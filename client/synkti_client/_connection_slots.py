"""Bound how many connections are established at the same time.

A connection costs this process CPU time, and its timeouts run meanwhile. If a thousand streams that lose their node
connected at once, all of them would time out together, at every node, again and again. Those that wait here choose
their node afterwards, when the first ones have recorded which nodes do not answer.

The async and the sync class differ in more than `await`: one waits for a task, the other for a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from synkti_client._httpx import httpx

MAX_CONNECTING = 32
_MAX_WAIT_S = 10.0
"""Then a request connects without a slot: nodes that accept nothing hold the slots only for so long."""

_CONNECTED = ".send_request_headers."
"""Part of the event that httpcore sends to the `trace` extension when a request has its connection, new or not."""


class _Slot:
    """The slot of one request. is_held: False before it is granted, and after its release."""

    trace: Callable[..., Any]

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self.is_held = False

    def release(self) -> None:
        """Release the slot, if it is held."""
        if self.is_held:
            self.is_held = False
            self._give_back()

    def on_event(self, event: str) -> None:
        """Release the slot at the event by which the request has its connection."""
        if _CONNECTED in event:
            self.release()

    def release_when_connected(self, request: httpx.Request) -> httpx.Request:
        """Let the transport release the slot as soon as this request has its connection; return the request."""
        request.extensions["trace"] = self.trace
        return request


class AsyncConnectionSlots:
    """Slots of an async transport. limit: connections being established at once."""

    def __init__(self, limit: int = MAX_CONNECTING) -> None:
        self._slots = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def slot(self, within_s: float | None) -> AsyncIterator[AsyncSlot]:
        """Hold a slot until the request has a connection, or to the end of the context where it gets none.

        Args:
            within_s: the most seconds to wait for the slot; None: `_MAX_WAIT_S`.

        Yields:
            The slot, held or not.
        """
        slot = AsyncSlot(self._slots)
        await slot.acquire(_wait_s(within_s))
        try:
            yield slot
        finally:
            slot.release()


class AsyncSlot(_Slot):
    """The slot of one request of an async transport."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        super().__init__(slots.release)
        self._slots = slots

    async def acquire(self, within_s: float) -> None:
        """Wait for the slot; continue without one after `within_s` seconds."""
        with suppress(asyncio.TimeoutError):
            if self._slots.locked():
                await asyncio.wait_for(self._slots.acquire(), within_s)
            else:  # without waiting, which wait_for would do even for a free slot
                await self._slots.acquire()
            self.is_held = True

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Receive an event of httpcore."""
        self.on_event(event)


class ConnectionSlots:
    """Slots of a sync transport. limit: connections being established at once."""

    def __init__(self, limit: int = MAX_CONNECTING) -> None:
        self._slots = threading.Semaphore(limit)

    @contextmanager
    def slot(self, within_s: float | None) -> Iterator[Slot]:
        """Hold a slot until the request has a connection, or to the end of the context where it gets none.

        Args:
            within_s: the most seconds to wait for the slot; None: `_MAX_WAIT_S`.

        Yields:
            The slot, held or not.
        """
        slot = Slot(self._slots)
        slot.acquire(_wait_s(within_s))
        try:
            yield slot
        finally:
            slot.release()


class Slot(_Slot):
    """The slot of one request of a sync transport."""

    def __init__(self, slots: threading.Semaphore) -> None:
        super().__init__(slots.release)
        self._slots = slots

    def acquire(self, within_s: float) -> None:
        """Wait for the slot; continue without one after `within_s` seconds."""
        self.is_held = self._slots.acquire(timeout=within_s)

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Receive an event of httpcore."""
        self.on_event(event)


def _wait_s(within_s: float | None) -> float:
    return _MAX_WAIT_S if within_s is None else min(_MAX_WAIT_S, within_s)
