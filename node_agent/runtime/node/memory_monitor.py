"""Watches the process's memory, and frees it where there is a reason (`core/node/memory_use`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from node_agent.core.node.memory_use import MemoryUse

CHECK_INTERVAL_S = 1.0
_log = logging.getLogger(__name__)


async def monitor_memory(
    resident_bytes: Callable[[], int], give_back: Callable[[], int], busy: Callable[[], int]
) -> None:
    """Check until cancelled.

    resident_bytes: of this process; give_back: frees unreferenced objects and returns their number; busy: the number of
    requests in progress.
    """
    clock = asyncio.get_running_loop().time
    use = MemoryUse(resident_bytes(), clock())
    while True:
        await asyncio.sleep(CHECK_INTERVAL_S)
        before, began_at = resident_bytes(), clock()
        why = use.reason(before, busy(), began_at)
        if why is not None:
            found = give_back()
            use.collected(resident_bytes(), busy(), clock())
            sizes = f"{before >> 20} -> {use.after_bytes >> 20} MiB in {(clock() - began_at) * 1000:.0f} ms"
            _log.info("freed memory (%s): %d objects, %s", why, found, sizes)
