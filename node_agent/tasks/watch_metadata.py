"""Asks IMDS every second whether EC2, or the Auto Scaling group, wants the instance back: the primary source of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from node_agent.contract.errors import MetadataUnavailable
from node_agent.core.lifecycle import Event, NoticeSeen, RebalanceSeen, TermRequested, in_own_time
from node_agent.ports import Metadata

EVERY_S = 1.0
_log = logging.getLogger(__name__)


async def watch_metadata(
    metadata: Metadata, post: Callable[[Event], None], clock: Callable[[], float], term_grace_s: float
) -> None:
    """Until cancelled. An IMDS that does not answer is told once, not every second, and asked again.

    term_grace_s: what a drain may take that the group asked for; it waits a little longer.
    """
    silent = recommended = told_to_go = False
    noticed: float | None = None
    while True:
        try:
            notice = await metadata.interruption()
            if notice is not None and notice.deadline != noticed:
                noticed = notice.deadline
                seen_at = clock()
                post(NoticeSeen(seen_at, in_own_time(notice, seen_at)))
            if not recommended and await metadata.rebalance() is not None:
                recommended = True
                post(RebalanceSeen(clock()))
            if not told_to_go and await metadata.told_to_go():
                told_to_go = True
                post(TermRequested(clock(), clock() + term_grace_s))
            silent = False
        except MetadataUnavailable as error:
            if not silent:
                _log.warning("%s; asking on", error)
            silent = True
        await asyncio.sleep(EVERY_S)
