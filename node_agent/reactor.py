"""The reactor: queues events for the lifecycle machine, and performs its effects one after another.

The only broad `except` of the agent is here, and it re-raises: a bug ends the process loudly, with the recent events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from node_agent.core.node.lifecycle import Effect, Event, Lifecycle, Retire

_MAX_EVENTS = 1_024
_log = logging.getLogger(__name__)


class Reactor:
    """Runs the lifecycle machine.

    perform: performs one effect; it must not wait for anything slow, or the next event waits with it.
    """

    def __init__(self, lifecycle: Lifecycle, perform: Callable[[Effect], Awaitable[None]]) -> None:
        self._lifecycle = lifecycle
        self._perform = perform
        self._events: asyncio.Queue[Event] = asyncio.Queue(_MAX_EVENTS)

    def post(self, event: Event) -> None:
        """Queue an event. Raises asyncio.QueueFull: a thousand unhandled events are a bug, not a load."""
        self._events.put_nowait(event)

    async def run(self) -> Retire:
        """Handle events until the node retires; return how it ended."""
        while True:
            event = await self._events.get()
            try:
                for effect in self._lifecycle.handle(event):
                    _log.info("%s", effect)
                    if isinstance(effect, Retire):
                        return effect
                    await self._perform(effect)
            except Exception:
                _log.critical("the recent events: %s", list(self._lifecycle.recent))
                raise
