"""Polls IMDS every second for interruption notices and requests to terminate: their primary source.

Each path is polled by a loop of its own: one that fails, or does not answer, hides nothing of the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from node_agent.contract.errors import TransientError
from node_agent.core.node.lifecycle import Event, NoticeSeen, RebalanceSeen, TermRequested, to_local_time
from node_agent.ports import Metadata

EVERY_S = 1.0
_WITHIN_S = 10.0
"""The timeout of one answer, whatever the adapter's own: then the path is read again."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


async def watch_metadata(
    metadata: Metadata, post: Callable[[Event], None], clock: Callable[[], float], term_grace_s: float
) -> None:
    """Poll until cancelled. A path that does not answer is logged once, not every second, and read again.

    clock: unix seconds; term_grace_s: what a drain may take that the group requested; the group waits a little longer.
    """
    async with asyncio.TaskGroup() as paths:
        paths.create_task(_watch_notice(metadata, post, clock))
        paths.create_task(_watch_rebalance(metadata, post, clock))
        paths.create_task(_watch_group(metadata, post, clock, term_grace_s))


async def _watch_notice(metadata: Metadata, post: Callable[[Event], None], clock: Callable[[], float]) -> None:
    """Poll for ever: a second notice may have another deadline."""
    noticed: float | None = None
    path = _Path("the interruption notice", metadata.interruption)
    while True:
        notice = await path.read()
        if notice is not None and notice.deadline != noticed:
            noticed = notice.deadline
            seen_at = clock()
            post(NoticeSeen(seen_at, to_local_time(notice, seen_at)))
        await asyncio.sleep(EVERY_S)


async def _watch_rebalance(metadata: Metadata, post: Callable[[Event], None], clock: Callable[[], float]) -> None:
    path = _Path("the rebalance recommendation", metadata.rebalance)
    await path.until(lambda since: since is not None)
    post(RebalanceSeen(clock()))


async def _watch_group(
    metadata: Metadata, post: Callable[[Event], None], clock: Callable[[], float], term_grace_s: float
) -> None:
    path = _Path("the group's target state", metadata.termination_requested)
    await path.until(bool)
    post(TermRequested(clock(), clock() + term_grace_s))


class _Path(Generic[_T]):
    """One path of IMDS. name: for the log."""

    def __init__(self, name: str, ask: Callable[[], Awaitable[_T]]) -> None:
        self._name = name
        self._ask = ask
        self._silent = False

    async def until(self, there: Callable[[_T | None], bool]) -> None:
        """Read it every second until an answer satisfies `there`."""
        while True:
            if there(await self.read()):
                return
            await asyncio.sleep(EVERY_S)

    async def read(self) -> _T | None:
        """Return its answer; None where there is none now."""
        try:
            async with asyncio.timeout(_WITHIN_S):
                answer = await self._ask()
        except (TransientError, TimeoutError) as error:
            if not self._silent:
                why = str(error) or f"no answer within {_WITHIN_S:.0f} s"
                _log.warning("%s: %s; polling continues", self._name, why)
            self._silent = True
            return None
        self._silent = False
        return answer
